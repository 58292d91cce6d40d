"""Runs commands, kills them at drawn moments, runs them again, and compares the end with that of an unbroken run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from filelock import FileLock

from reclm.folders import workspace

from .contents import contents, fault
from .process import Call, Forked, Process, started

CHAIN = (1, 2, 3)
"""Kills in a row, before a run comes to its end."""
DELAY = 0.05
"""Most seconds that a kill may be behind a file operation: for what libraries write without Python."""
PATIENCE = 300.0
"""Seconds after which a run hangs."""
LINGER = 20.0
"""Seconds after the kill of a process in which those that it started must end."""

Kind = Literal["time", "operation", "after"]


@dataclass(frozen=True)
class Command:
    """A command of reclm, which is killed.

    Attributes:
        arguments: without ``reclm``; paths are relative to the work folder, whose ``home`` is the workspace.
        artefact: a glob of what it makes, which is complete where it is as an unbroken run leaves it.
        after: the command whose unbroken run ends in the state that this one begins in; an empty folder by default.
        state: changes that state.
        module: is run with the arguments.
    """

    name: str
    arguments: str
    artefact: str
    after: str = ""
    state: Callable[[Path], None] | None = None
    module: str = "reclm"


@dataclass(frozen=True)
class Moment:
    """A moment to kill at: seconds from the start, or the number of a file operation, or shortly after it."""

    kind: Kind
    at: float
    delay: float = 0.0

    def __str__(self) -> str:
        if self.kind == "time":
            return f"{self.at:.2f} s"
        return f"file operation {self.at:.0f}" + (f" + {1e3 * self.delay:.0f} ms" if self.delay else "")


@dataclass(frozen=True)
class Unbroken:
    """The unbroken run of a command: its seconds, file operations, and the contents before and after."""

    seconds: float
    operations: int
    begin: dict[str, list[str]]
    end: dict[str, list[str]]


@dataclass
class Outcome:
    """The outcome of some kills in a row and the run to the end."""

    command: str
    moments: list[Moment] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    """Of each kill: before, while or after the artefact appeared."""
    torn: list[str] = field(default_factory=list)
    """What was not whole after a kill, or still ran."""
    differs: list[str] = field(default_factory=list)
    litter: list[str] = field(default_factory=list)
    failure: str = ""
    seconds: float = 0.0

    @property
    def faults(self) -> list[str]:
        """All that is wrong, a line each."""
        lines = [f"failed: {self.failure}"] if self.failure else []
        lines += [*self.torn, *(f"differs: {name}" for name in self.differs)]
        return [*lines, *(f"left behind: {name}" for name in self.litter)]


class Place:
    """A folder in which commands run, each in a folder of its own, always the same one.

    ``forked`` processes have everything imported; others are interpreters that begin by importing, for seconds.
    """

    def __init__(self, root: Path, commands: Mapping[str, Command], forked: bool = True) -> None:
        self.root, self.commands, self.forked = root.resolve(), commands, forked
        # before anything is imported in the processes
        os.environ |= {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONHASHSEED": "0",
        }

    def work(self, name: str) -> Path:
        """Return the work folder of a command."""
        return self.root / "at" / name / "work"

    def unbroken(self, name: str) -> Unbroken:
        """Return the unbroken run of a command; it runs once, in whatever process asks first."""
        folder = self.root / "unbroken" / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            record, log = folder / "record.json", folder / "operations"
            if not record.is_file():
                work = self._begin(name)
                shutil.copytree(work, folder / "begin")
                begin, start = contents(work), time.monotonic()
                if failure := self._finish(self._start(name, log=log), name):
                    raise RuntimeError(f"{name} fails without a kill: {failure}")
                seconds = time.monotonic() - start
                if torn := fault(work):
                    raise RuntimeError(f"{name} without a kill: {torn}")
                shutil.copytree(work, folder / "end")
                operations = len(log.read_text().splitlines())
                record.write_text(json.dumps([seconds, operations, begin, contents(work)]))
            return Unbroken(*json.loads(record.read_text()))

    def _begin(self, name: str) -> Path:
        """Make the state that a command begins in, in its work folder."""
        command, work = self.commands[name], self.work(name)
        shutil.rmtree(work.parent, ignore_errors=True)
        (work.parent / "tmp").mkdir(parents=True)
        if command.after:
            self.unbroken(command.after)
            shutil.copytree(self.root / "unbroken" / command.after / "end", work)
        else:
            work.mkdir()
        if command.state:
            workspace(work / "home")
            command.state(work)
        return work

    def moments(self, name: str, number: int, seed: int) -> list[Moment]:
        """Draw the moments of case ``number``: kills in a row."""
        random, unbroken = Random(f"{name} {seed} {number}"), self.unbroken(name)
        return [_moment(random, unbroken) for _ in range(random.choice(CHAIN))]

    def case(self, name: str, moments: Iterable[Moment]) -> Outcome:
        """Kill a command at each of ``moments``, let it come to its end, and compare."""
        start, unbroken, outcome, work = time.monotonic(), self.unbroken(name), Outcome(name), self.work(name)
        shutil.rmtree(work)
        shutil.copytree(self.root / "unbroken" / name / "begin", work)
        workspace(work / "home")
        for moment in moments:
            process = self._killed(name, moment)
            if process.returncode != -signal.SIGKILL:  # it has less to do than the unbroken run
                break
            outcome.moments.append(moment)
            outcome.phases.append(_phase(work, self.commands[name], unbroken))
            if _outlived(process):
                outcome.torn.append(f"killed at {moment}: what it started goes on")
            if torn := fault(work):
                outcome.torn.append(f"killed at {moment}: {torn}")
        outcome.failure = self._finish(self._start(name), name)
        end = contents(work)
        outcome.differs = [file for file in unbroken.end if set(unbroken.end[file]) - set(end.get(file, []))]
        # a run's folder that appeared before the kill is there twice, and is a result
        outcome.litter = [file for file in end if set(end[file]) - set(unbroken.end.get(file, []))]
        outcome.torn += [f"at the end: {what}"] if (what := fault(work)) else []
        outcome.seconds = time.monotonic() - start
        return outcome

    def _killed(self, name: str, moment: Moment) -> Process:
        """Return a run that was killed at ``moment``, if it did not come to its end before."""
        process = self._start(name, moment)
        if moment.kind == "time":
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment.at)
            process.kill()
        process.wait(PATIENCE)
        return process

    def _start(self, name: str, moment: Moment | None = None, log: Path | None = None) -> Process:
        work = self.work(name)
        at = int(moment.at) if moment and moment.kind != "time" else None
        call = Call(
            str(work),
            self.commands[name].arguments.split(),
            str(work.parent / "output"),
            at,
            moment.delay if moment else 0.0,
            log and str(log),
            self.commands[name].module,
            {"TMPDIR": str(work.parent / "tmp"), "RECLM_HOME": "home", "RECLM_CACHE": "cache"},
        )
        return Forked(call) if self.forked else started(call)

    def _finish(self, process: Process, name: str) -> str:
        """Wait for a run; return what is wrong with its end."""
        try:
            if not (code := process.wait(PATIENCE)):
                return ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"no end after {PATIENCE:.0f} s"
        errors = (self.work(name).parent / "output").read_text(errors="replace").strip()
        return f"exit code {code}: {errors.splitlines()[-1][:300] if errors else ''}"


def _moment(random: Random, unbroken: Unbroken) -> Moment:
    kinds: tuple[Kind, ...] = ("time", "operation", "after")
    if (kind := random.choice(kinds)) == "time" or not unbroken.operations:
        return Moment("time", random.uniform(0, unbroken.seconds))
    return Moment(kind, random.randrange(unbroken.operations), random.uniform(0, DELAY) * (kind == "after"))


def _phase(work: Path, command: Command, unbroken: Unbroken) -> str:
    now = contents(work)
    if now == unbroken.begin:
        return "before"
    made = {path.relative_to(work).as_posix() for path in work.glob(command.artefact)}
    return "after" if made and all(now.get(name) == unbroken.end.get(name) for name in made) else "while"


def _outlived(process: Process) -> bool:
    """Return whether something that a killed process started is there after some time, and kill it."""
    until = time.monotonic() + LINGER
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        return True
    return False
