"""Personal marketing from a shop's own logs.

The public names are resolved on first use, so that `import recllm` costs nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Threads that wait by spinning make training ten times slower on a busy machine. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

_ROOM_OF = {
    "AdCopy": "base.schema",
    "CopyRequest": "market.adcopy.request",
    "Dataset": "shop.data.dataset",
    "Item": "base.schema",
    "Profile": "base.schema",
    "Recommendation": "base.schema",
    "RecllmError": "base.errors",
    "Recommender": "recommend.recommender.recommender",
    "Slate": "base.schema",
    "ToyEncoder": "text.encoder.toy",
    "Workspace": "shop.workspace.workspace",
    "build_profile": "learn.profiles.profile",
    "ingest_file": "shop.ingest.load",
    "load_encoder": "text.encoder.loading",
    "write_copy": "market.adcopy.write",
}

__all__ = sorted([*_ROOM_OF, "__version__"])

if TYPE_CHECKING:
    from recllm.base.errors import RecllmError as RecllmError
    from recllm.base.schema import AdCopy as AdCopy
    from recllm.base.schema import Item as Item
    from recllm.base.schema import Profile as Profile
    from recllm.base.schema import Recommendation as Recommendation
    from recllm.base.schema import Slate as Slate
    from recllm.learn.profiles.profile import build_profile as build_profile
    from recllm.market.adcopy.request import CopyRequest as CopyRequest
    from recllm.market.adcopy.write import write_copy as write_copy
    from recllm.recommend.recommender.recommender import Recommender as Recommender
    from recllm.shop.data.dataset import Dataset as Dataset
    from recllm.shop.ingest.load import ingest_file as ingest_file
    from recllm.shop.workspace.workspace import Workspace as Workspace
    from recllm.text.encoder.loading import load_encoder as load_encoder


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'recllm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"recllm.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
