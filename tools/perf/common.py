"""Side-by-side timing and a line about the machine, for all speed commands."""

import argparse
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def arguments(what: str, dataset: str = "mind-release") -> argparse.ArgumentParser:
    """``--dataset``, ``--home`` and ``--repeats``."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--dataset", default=dataset, help="name or folder of a prepared data set")
    parser.add_argument("--home", type=Path, default=None, help="workspace folder")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; medians are printed")
    return parser


def side_by_side(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each callable, taken in turns so that a slow moment of the machine hits all alike.

    One round runs first and is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, call in candidates.items():
            begun = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Processor, threads and torch version."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def peak_memory() -> int:
    """Most bytes that this process has held at once (resident)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where what getrusage says is inherited from the parent
        words = status.read_text(encoding="ascii").split()
        return int(words[words.index("VmHWM:") + 1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
