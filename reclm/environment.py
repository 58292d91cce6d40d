"""The conditions that numbers depend on besides data and options: versions, machine, threads."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = (
    "reclm-toolkit",
    "torch",
    "numpy",
    "scipy",
    "sentence-transformers",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "optuna",
)


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return Python, system, processor, threads, GPUs, and the version of each package that is installed.

    Nothing in it identifies the machine: no path, no host name, no user.
    """
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **({"gpus": gpus} if gpus else {}),
        **{name: number for name in packages if (number := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
