"""Work that kills its own process; in a file of its own, as each process that is started for it reads the file anew."""

from __future__ import annotations

import os
import signal

from recllm.market.experiments.batch import BatchRun, ShardOutcome


def work(_: BatchRun, shard: int) -> ShardOutcome:
    """Kills its process for shard 2."""
    if shard == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return ShardOutcome(shard=shard)
