"""The stages of RecLM's tuning in order (RecLM, https://arxiv.org/abs/2412.19302, sections 2.2 to 2.4).

Data, adapters and measurements lie in the folder of their stage; an interrupted run goes on from there.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import load_from_disk
from rich.table import Table

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.data.readers.columns import strings
from reclm.data.readers.records import read_records
from reclm.errors import BadInput, unknown
from reclm.llm.chat import plain
from reclm.profilers.profile_format import PAPERS
from reclm.profilers.reclm import measure
from reclm.profilers.reclm.config import (
    ENDS,
    WRITERS,
    RecLMConfig,
    StageName,
    SupervisedConfig,
    TeacherConfig,
)
from reclm.profilers.reclm.neighbours import UserNeighbours, similar_items
from reclm.profilers.reclm.profiler import RecLMFolder, RecLMProfiler
from reclm.profilers.reclm.reward_model import RewardModel, pair_dataset, reward_pairs, split_users
from reclm.profilers.reclm.samples import ABOUT, Instructions, Sample, subset
from reclm.profilers.reclm.stages import StageRun, train_ppo, tune, tune_reward
from reclm.profilers.tuning.checkpoints import CHECKPOINTS
from reclm.profilers.tuning.pipeline import Tuning
from reclm.profilers.tuning.training import quiet
from reclm.profiles.estimate import dry_run
from reclm.profiles.run import make_profiles, plans, written
from reclm.profiles.store import KINDS, ProfileStore

_NAMES = {"id": ("id", "user_id", "item_id", "uid"), "text": ("text", "profile", "response")}


@dataclass(frozen=True)
class Teacher:
    """The teacher's profiles of one kind by id, a line each, and the count of those that were left out, by reason."""

    profiles: dict[str, str]
    report: ReadReport


def read_teacher(path: Path, view: TrainingView, kind: ProfileKind, config: TeacherConfig) -> Teacher:
    """Read profiles from CSV or TSV (with a header line), Parquet or JSON lines, or from a profile store's folder.

    Of several profiles of one id the first in format counts.
    """
    empty = path.is_file() and not path.stat().st_size
    ids, texts = ([], []) if empty else _columns(path, kind, config)
    if not ids:
        raise BadInput(f"{path} is empty: it holds no profile; give a file of ids and profiles", where=path)
    idmap, phrases = view.idmap(kind), config.phrases if kind == "user" else config.item_phrases
    known = idmap.find(ids) >= 0
    missing = int((~known).sum())
    if missing and (config.strict or not known.any()):
        example = ids[int(np.flatnonzero(~known)[0])]
        raise BadInput(
            f"{path}: {missing} of {len(known)} {kind} ids are not in data set {view.name!r}, such as {example!r} "
            f"(its ids look like {', '.join(idmap.ids(np.arange(min(3, len(idmap)))))}); "
            "give the file of this data set, or set teacher.strict=false to leave them out",
            value=example,
            where=path,
            remedy="teacher.strict=false",
        )
    report = ReadReport()
    report.drop("id not in the data set", missing)
    profiles: dict[str, str] = {}
    for row in np.flatnonzero(known).tolist():
        id, text = ids[row], plain(texts[row])
        reason = PAPERS.fault(text, phrases) if text else "no text"
        if reason or id in profiles:
            report.drop(reason or "another profile of the same id")
        else:
            profiles[id] = text
    report.counts[kind] = len(profiles)
    if not profiles:
        reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        raise BadInput(
            f"{path}: none of {len(known)} profiles is in the format 'User identity: a, b, c; User interests: "
            f"x, y, z.' ({reasons})",
            value=dict(report.dropped),
            where=path,
        )
    return Teacher(profiles, report)


def _columns(path: Path, kind: ProfileKind, config: TeacherConfig) -> tuple[list[str], list[str]]:
    """Return the ids and the texts in a file or profile store."""
    if ProfileStore.at(path):
        stored = ProfileStore.read(path).texts(kind)
        return list(stored), list(stored.values())
    table = read_records(path)
    names = _column(path, table, config.id_column, "id"), _column(path, table, config.text_column, "text")
    ids, texts = (strings(table[name]).fill_null("").to_pylist() for name in names)
    return ids, texts


def _column(path: Path, table: pa.Table, named: str | None, what: str) -> str:
    names, usual = table.column_names, _NAMES[what]
    if named not in {None, *names}:
        raise unknown(f"column of {path}", named, names)
    matches = [named] if named else [name for name in names if name.lower() in usual]
    if len(matches) == 1:
        return matches[0]
    problem = f"several {what} columns ({', '.join(matches)})" if matches else f"no {what} column"
    raise BadInput(
        f"{path} has {problem}; one of {', '.join(usual)} is wanted, or name it: teacher.{what}_column=NAME "
        f"(found: {', '.join(names)})",
        value=matches,
        where=path,
        remedy=f"teacher.{what}_column=NAME",
    )


class RecLMPipeline(Tuning):
    """A run of the stages that ``config`` names; see :class:`~reclm.profilers.tuning.pipeline.Tuning`."""

    Folder = RecLMFolder
    config: RecLMConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        teacher = self.config.teacher
        self.asks_teacher = bool(teacher.model or teacher.engine)
        if not (self.asks_teacher or teacher.users or (self.config.stages == ("items",) and teacher.items)):
            raise BadInput(
                "tuning needs user profiles to learn from: give --teacher FILE, or --teacher-model NAME",
                where="teacher",
                remedy="--teacher FILE",
            )
        if not self.asks_teacher:
            _ = self.teachers
        self.tuned: RecLMFolder = self.begin()

    @cached_property
    def teachers(self) -> dict[ProfileKind, Teacher]:
        """The teacher's profiles by kind: from the files that the config names, or written by its model first."""
        config = self.config.teacher
        paths: dict[ProfileKind, Path | None] = {kind: config.file(kind) for kind in KINDS}
        if self.asks_teacher:
            self._ask_teacher()
            paths |= dict.fromkeys(self._asked, self.folder / "teacher")
        return {kind: read_teacher(path, self.view, kind, config) for kind, path in paths.items() if path}

    @property
    def _asked(self) -> list[ProfileKind]:
        """The kinds that the teacher's model writes: those that the config names no file of."""
        return [kind for kind in KINDS if self.config.teacher.file(kind) is None]

    @cached_property
    def _teacher_model(self) -> RecLMProfiler:
        parts = {name: getattr(self.config, name) for name in ("instructions", "generation", "neighbours")}
        teacher = self.config.teacher
        engine = {"engine": teacher.engine, "engine_options": teacher.engine_options}
        return RecLMProfiler(RecLMConfig(**parts, stages=()), model=teacher.model, **engine)

    def _ask_teacher(self) -> None:
        """Write the teacher's missing profiles, and print beforehand how many tokens that takes.

        Answers are stored one by one: an interrupted run asks only for the rest.
        """
        view, profiler, limit = self.view, self._teacher_model, self.config.teacher.limit
        generator = profiler.generator
        with ProfileStore.open(
            self.folder / "teacher", view.fingerprint, profiler.writer, view.name
        ) as store:
            for kind in self._asked if self.progress else ():
                known: dict[ProfileKind, dict[str, str]] = {"user": {}, "item": {}}
                known["user"] |= store.texts("user") if kind == "item" else {}
                for todo in plans(view, profiler, store, kind, known, limit):
                    known[kind] |= written(store, todo)
                    if chats := {prompt.prompt_hash: prompt.source for prompt in todo.prompts}:
                        self.say(
                            f"asking {generator.model} for {len(chats):,} {kind} profiles: about "
                            f"{sum(generator.count_tokens(chats).values()):,} tokens to read, at most "
                            f"{len(chats) * self.config.generation.max_new_tokens:,} to write"
                        )
            make_profiles(view, profiler, store, self._asked, limit, self.progress)

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The configured stages that the teacher has profiles for."""
        return tuple(stage for stage in self.config.stages if stage != "items" or "item" in self.teachers)

    def run(self) -> None:
        """Train every stage that is not finished."""
        self.tuned.write()
        with quiet():
            if not all(map(self.tuned.adapter, self.stages)):
                self.say_cut_texts()
            for stage in self.stages:
                if self.tuned.adapter(stage):  # its run may have been killed before it deleted them
                    shutil.rmtree(self.folder / stage / CHECKPOINTS, ignore_errors=True)
                else:
                    self.train(stage)

    def cut_texts(self) -> list[str]:
        """Return a line that says how many items' texts are cut."""
        return self.instructions.histories.cut_texts()

    def next_command(self) -> list[str]:
        """Return the command that writes profiles with the tuned model, without the data set."""
        return ["reclm", "profile", "--profiler", str(self.folder)]

    def results(self) -> list[Table | str]:
        """Measure what is not measured yet; write report, curves and model card; return tables and lines to print."""
        return measure.Measurement(self).run() if self.config.measured else []

    def sample_texts(self, count: int) -> Iterator[str]:
        """Yield ``count`` samples of each stage, and which tokens of a two-turn one carry loss."""
        with quiet():
            yield from measure.sample_texts(self, count)

    def estimate(self) -> Table:
        """Return samples, tokens, updates and time of every stage, from the time of one update on this machine.

        Of a teacher's model that has not written yet, its prompts and their time: the stages depend on its profiles.
        """
        with quiet():
            if self.asks_teacher:
                folder, limit = self.folder / "teacher", self.config.teacher.limit
                store = ProfileStore.read(folder) if ProfileStore.at(folder) else None
                # answers may cost money: a few are enough
                parts = dry_run(self.view, self._teacher_model, store, self._asked, limit, sample=8)
                if any(part.plan.prompts for part in parts):
                    return measure.teacher_estimate(parts)
            return measure.estimate(self)

    def train(self, stage: StageName) -> None:
        """Train a stage, or go on with it."""
        self.say(f"{stage}:")
        run = StageRun(self.model, self.prompts, self.folder / stage, self.config.seed, self.progress)
        if stage == "ppo":
            self._ppo(run)
            return
        learned, held_out = self.parts(stage)
        if not len(learned):
            raise BadInput(f"{stage}: nothing is left to learn from; give more teacher profiles", where=stage)
        self.say(f"  {len(learned):,} samples to learn from, {len(held_out):,} held out")
        config: SupervisedConfig = getattr(self.config, stage)
        if stage == "reward":
            tune_reward(run, learned, held_out, config)
        elif stage == "collab":
            tune(run, learned, held_out, config, self.config.variant, self.start_of(stage))
        else:
            tune(run, learned, held_out, config)

    def _ppo(self, run: StageRun) -> None:
        rows = self.view.users.find(self.reward_users["rl"])
        samples = list(self.instructions.inference(rows, self.neighbours.nearest))
        adapter = self.tuned.adapter("reward")
        if not samples:
            raise BadInput("ppo: nothing is left to learn from; give more teacher profiles", where="ppo")
        assert adapter is not None
        reward = RewardModel.load(self.model, adapter, self.prompts, [sample.messages for sample in samples])
        questions = [self.prompts.ids(sample.chat) for sample in samples]
        config = self.config.ppo.model_copy(update={"stop": ENDS})
        train_ppo(run, questions, reward, config, self.config.ppo_lora, self.start_of("ppo"))

    def start_of(self, stage: StageName) -> Path | None:
        """Return the adapter that a stage of user profiles starts from: that of the last finished one before it."""
        earlier = WRITERS["user"][: WRITERS["user"].index(stage)]
        adapters = [self.tuned.adapter(name) for name in earlier if name in self.config.stages]
        return next((adapter for adapter in reversed(adapters) if adapter), None)

    @cached_property
    def instructions(self) -> Instructions:
        """Makes the samples of all stages."""
        return Instructions(self.view, self.config.instructions, self.prompts)

    @cached_property
    def neighbours(self) -> UserNeighbours:
        """Similar users, among all."""
        histories, cache = self.instructions.histories.of_users, self.folder / "neighbours"
        return UserNeighbours(self.view, histories, self.config.neighbours, cache, self.progress)

    def split(self, kind: ProfileKind) -> dict[str, list[str]]:
        """Split the ids of the teacher's subjects into ``learned`` and ``held_out`` ones."""
        ids = sorted(self.teachers[kind].profiles)
        drawn = np.random.default_rng([self.config.seed, 2]).permutation(len(ids))
        held = round(self.config.held_out * len(ids))
        return {"held_out": [ids[at] for at in drawn[:held]], "learned": [ids[at] for at in drawn[held:]]}

    @cached_property
    def reward_users(self) -> dict[str, np.ndarray]:
        """Ids ``(n,)`` of learned users, by the parts of :attr:`RewardDataConfig.split`."""
        users, generator = self.split("user")["learned"], np.random.default_rng([self.config.seed, 3])
        return split_users(np.array(users), self.config.reward_data, generator)

    @cached_property
    def learned_neighbours(self) -> np.ndarray:
        """``(U, n)`` similar users of the teacher's users, among the learned ones."""
        taught = self.view.users.find(self.teachers["user"].profiles)
        learned = self.view.users.find(self.split("user")["learned"])
        return self.neighbours.among(learned, taught)

    def parts(self, stage: StageName) -> tuple[Any, Any]:
        """Return the samples (of the reward model: pairs) to learn from, and the held-out ones."""
        if stage == "reward":
            return self._pairs(self.reward_users["train"]), self._pairs(self.reward_users["eval"])
        samples, split = self.samples(stage), self.split("item" if stage == "items" else "user")
        return subset(samples, split["learned"]), subset(samples, split["held_out"])

    def samples(self, stage: StageName) -> Any:
        """Return a supervised stage's ``datasets.Dataset``, with the held-out subjects, from ``folder/stage/data``."""
        folder = self.folder / stage / "data"
        if not (folder / ABOUT).is_file():
            self.instructions.save(folder, self._samples(stage))
        return load_from_disk(str(folder))

    def _samples(self, stage: StageName) -> Iterator[Sample]:
        users = self.teachers["user"].profiles if "user" in self.teachers else {}
        if stage == "kd":
            yield from self.instructions.kd(users)
        elif stage == "collab":
            generator = np.random.default_rng([self.config.seed, 4])
            yield from self.instructions.collaborative(self.learned_neighbours, users, generator)
        else:
            items = self.teachers["item"].profiles
            rows = self.view.items.find(items)
            learned = self.view.items.find(self.split("item")["learned"])
            count, cache = self.config.neighbours.count, self.folder / "neighbours"
            near = similar_items(self.view, self.encoder, cache, count, learned, rows)
            yield from self.instructions.warm_items(rows, users, items)
            yield from self.instructions.cold_items(rows, near, items, items)

    def _pairs(self, users: np.ndarray) -> Any:
        rows = self.view.users.find(users)
        profiles = self.teachers["user"].profiles
        generator = np.random.default_rng([self.config.seed, 5])
        samples = self.instructions.inference(rows, self.learned_neighbours)
        return pair_dataset(reward_pairs(samples, profiles, self.config.reward_data, generator))
