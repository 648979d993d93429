"""Work that kills its own process; in a file of its own, as each process that is started for it reads the file anew."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def work(folder: Path, shard: int) -> int:
    """Kills its process for shard 2 always, and for shard 3 the first time."""
    if shard == 2 or (shard == 3 and not (folder / "died").exists()):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shard
