from __future__ import annotations

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # what takes long on a busy machine is not wrong
settings.load_profile("untimed")
