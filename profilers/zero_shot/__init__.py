"""Profiles by an instruction-tuned language model as it is: no tuning, one subject at a time."""

from reclm.profilers.zero_shot.profiler import ZeroShot, ZeroShotConfig

__all__ = ["ZeroShot", "ZeroShotConfig"]
