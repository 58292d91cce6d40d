"""RecBole is written to be a process of its own; here it is made a guest in somebody else's."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


@contextmanager
def as_a_library(folder: Path) -> Iterator[None]:
    """Keep to itself what RecBole does to the process it runs in.

    - It reads ``sys.argv`` as its settings: it sees none.
    - It sets ``CUDA_VISIBLE_DEVICES``: put back.
    - It seeds the global random states of Python, NumPy and torch: put back.
    - It writes TensorBoard events below the working directory: into ``folder`` instead.
    - It uses deprecated calls, which warn in each batch: silenced, for RecBole's modules alone.
    """
    configurator: Any = sys.modules["recbole.config.configurator"]
    trainer: Any = sys.modules["recbole.trainer.trainer"]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 — it is the global state that RecBole draws from
    kept = configurator.sys, trainer.get_tensorboard
    try:
        configurator.sys = SimpleNamespace(argv=[""])
        trainer.get_tensorboard = lambda logger: _events(folder / "tensorboard")
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.filterwarnings("ignore", module=r"recbole\.")
            warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
            yield
    finally:
        configurator.sys, trainer.get_tensorboard = kept
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        if devices is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = devices


def _events(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
