"""Runs reclm in a process that kills itself at one of its file operations; as a program, ``python -m reclm`` so."""

import atexit
import itertools
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

TOP = Path(__file__).parents[2]
IMPORTED = (
    "reclm.cli",
    "reclm.backbones.bprmf",
    "reclm.benchmarks.experiment",
    "reclm.benchmarks.report.page",
    "reclm.data.readers.table",
    "reclm.data.readers.recbole",
    "reclm.llm.engines.transformers",
    "reclm.profilers.keywords.profiler",
    "reclm.profilers.langptune.pipeline",
    "reclm.profilers.reclm.pipeline",
    "reclm.recommend.fit",
    "reclm.text.encoder",
    "sentence_transformers",
    "transformers.models.llama.modeling_llama",
    "trl.trainer.reward_trainer",
    "trl.trainer.sft_trainer",
)
"""Imported once for all processes that are forked, which lancedb does not survive."""

_EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WITH_FOLDER = {"os.mkdir", "os.remove", "os.rmdir"}
"""Events whose last argument is an open folder that the path is relative to, or -1."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Call:
    """A command in the folder ``work``: killed before its file operation number ``at``, or ``delay`` seconds after.

    ``log`` is a file to write its operations to; its output goes into ``output``.
    """

    work: str
    arguments: Sequence[str]
    output: str
    at: int | None = None
    delay: float = 0.0
    log: str | None = None
    module: str = "reclm"
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Run ``python -m MODULE`` in this process."""
        os.chdir(self.work)
        os.environ.update(self.environment)
        with Path(self.output).open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv = ["reclm", *self.arguments]
        sys.addaudithook(_Hook(self))
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)


class _Hook:
    """Counts the file operations of Python in a folder, and kills the process at one of them."""

    def __init__(self, call: Call) -> None:
        self.call, self.numbers = call, itertools.count()
        self.log = None if call.log is None else os.open(call.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not self._counts(event, arguments):
            return
        if self.log is not None:
            os.write(self.log, f"{event} {os.fsdecode(arguments[0])}\n".encode())
        if next(self.numbers) != self.call.at:
            return
        if not self.call.delay:
            _kill()
        timer = threading.Timer(self.call.delay, _kill)
        timer.daemon = True
        timer.start()

    def _counts(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open" and not arguments[2] & _WRITES:
            return False
        if event in _WITH_FOLDER and arguments[-1] != -1:  # as rmtree removes
            return True
        if isinstance(arguments[0], int):
            return False
        path = os.path.abspath(os.fsdecode(arguments[0]))
        # TensorBoard opens its file for each value
        return path.startswith(f"{self.call.work}/") and "/tensorboard/" not in path


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Process(Protocol):
    """A process that leads a group of its own."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or raise subprocess.TimeoutExpired."""
        ...

    def kill(self) -> None: ...


def started(call: Call) -> Process:
    """Start a command as an interpreter of its own."""
    command = [sys.executable, "-m", "tests.kills.process", json.dumps(asdict(call))]
    return subprocess.Popen(command, cwd=TOP, start_new_session=True, stdin=subprocess.DEVNULL)


class Forked:
    """A command as a process that is forked from one that has imported everything."""

    def __init__(self, call: Call) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(IMPORTED))
        self._process = context.Process(target=_run_forked, args=(call,))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("reclm", timeout or 0.0)
        return self.returncode

    def kill(self) -> None:
        self._process.kill()


def _run_forked(call: Call) -> None:
    os.setsid()
    try:
        call.run()
    finally:
        atexit._run_exitfuncs()  # as an interpreter does that ends by itself


if __name__ == "__main__":
    Call(**json.loads(sys.argv[1])).run()
