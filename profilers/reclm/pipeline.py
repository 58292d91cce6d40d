"""The stages of RecLM's tuning in order (RecLM, https://arxiv.org/abs/2412.19302, sections 2.2 to 2.4).

Data, adapters and measurements lie in the folder of their stage; an interrupted run goes on from there.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.data.dataset import ProfileKind, ReadReport
from reclm.errors import BadInput
from reclm.profilers.profile_format import START
from reclm.profilers.reclm.config import ENDS, ORDER, RecLMConfig, StageName
from reclm.profilers.reclm.neighbours import UserNeighbours, item_features, similar_items
from reclm.profilers.reclm.ppo_stage import train_ppo
from reclm.profilers.reclm.prompts import Budget
from reclm.profilers.reclm.reward_model import (
    RewardModel,
    pair_dataset,
    reward_pairs,
    split_users,
    tune_reward,
)
from reclm.profilers.reclm.samples import ABOUT, Instructions, Sample, load_samples, save_samples, subset
from reclm.profilers.reclm.supervised import Variant, tune
from reclm.profilers.reclm.teacher import Teacher, TeacherModel, read_teacher
from reclm.profilers.tuning.metrics_log import FILE
from reclm.profilers.tuning.run_folder import About, RunFolder, Tuning
from reclm.profilers.tuning.training import ADAPTER, quiet
from reclm.profiles.store import KINDS

if TYPE_CHECKING:
    from rich.table import Table

WRITERS: dict[ProfileKind, tuple[StageName, ...]] = {"user": ("kd", "collab", "ppo"), "item": ("items",)}
"""Stages whose adapters write profiles of a kind, in order."""


class RecLMAbout(About):
    """The origin of a RecLM profiler."""

    profiler: str = "reclm"


class RecLMFolder(RunFolder):
    """The run folder of a RecLM tuning."""

    profiler = "reclm"
    Config = RecLMConfig
    About = RecLMAbout
    free = frozenset({"stages", "measured", "generation"})
    writes = ("generation", "instructions", "neighbours", "stages")
    prepared = ORDER

    @property
    def learned(self) -> bool:
        """Whether the training of a stage was begun."""
        traces = (FILE, "checkpoints", ADAPTER)
        return any((self.folder / stage / name).exists() for stage in ORDER for name in traces)

    def last(self, kind: ProfileKind) -> StageName | None:
        """Return the stage that writes profiles of ``kind``: the last one that is configured and finished."""
        done = [stage for stage in WRITERS[kind] if stage in self.config.stages and self.adapter(stage)]
        return done[-1] if done else None


class RecLMPipeline(Tuning):
    """A run of the stages that ``config`` names; see :class:`~reclm.profilers.tuning.run_folder.Tuning`."""

    Folder = RecLMFolder
    config: RecLMConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        teacher = self.config.teacher
        by_model = teacher.model or teacher.engine
        self.teacher_model = (
            TeacherModel(self.view, self.config, self.folder / "teacher") if by_model else None
        )
        if not by_model and not (teacher.users or (self.config.stages == ("items",) and teacher.items)):
            raise BadInput(
                "tuning needs user profiles to learn from: give --teacher FILE, or --teacher-model NAME",
                where="teacher",
                remedy="--teacher FILE",
            )
        if not by_model:
            _ = self.teachers
        self.tuned: RecLMFolder = self.begin()

    @cached_property
    def teachers(self) -> dict[ProfileKind, Teacher]:
        """The teacher's profiles by kind: from the files that the config names, or written by its model first."""
        paths = {"user": self.config.teacher.users, "item": self.config.teacher.items}
        if self.teacher_model:
            self.teacher_model.write(self.progress)
            paths |= dict.fromkeys(self.teacher_model.kinds, self.teacher_model.folder)
        return {
            kind: read_teacher(path, self.view, kind, self.config.teacher)
            for kind in KINDS
            if (path := paths[kind])
        }

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The configured stages that the teacher has profiles for."""
        return tuple(stage for stage in self.config.stages if stage != "items" or "item" in self.teachers)

    def run(self) -> None:
        """Train every stage that is not finished."""
        self.tuned.write()
        with quiet():
            for stage in self.stages:
                if not self.tuned.adapter(stage):
                    self.train(stage)

    def next_command(self) -> list[str]:
        """Return the command that writes profiles with the tuned model, without the data set."""
        return ["reclm", "profile", "--profiler", "reclm", "--adapter", str(self.folder)]

    def results(self) -> "list[Table | str]":
        """Measure what is not measured yet; write report, curves and model card; return tables and lines to print."""
        from reclm.profilers.reclm.measure import Measurement

        return Measurement(self).run() if self.config.measured else []

    def shown(self, count: int) -> Iterator[str]:
        """Yield ``count`` samples of each stage, and which tokens of a two-turn one carry loss."""
        from reclm.profilers.reclm.measure import shown

        with quiet():
            yield from shown(self, count)

    def estimate(self) -> "Table":
        """Return samples, tokens, updates and time of every stage, from the time of one update on this machine.

        Of a teacher's model that has not written yet, its prompts and their time: the stages depend on its profiles.
        """
        from reclm.profilers.reclm.measure import estimate, teacher_estimate

        with quiet():
            parts = self.teacher_model.estimate() if self.teacher_model else []
            return teacher_estimate(parts) if any(part.plan.prompts for part in parts) else estimate(self)

    def train(self, stage: StageName) -> None:
        """Train a stage, or go on with it."""
        self.say(f"{stage}:")
        match stage:
            case "reward":
                self._reward()
            case "ppo":
                self._ppo()
            case _:
                self._supervised(stage)

    def _supervised(self, stage: StageName) -> None:
        kind: ProfileKind = "item" if stage == "items" else "user"
        samples = self.samples(stage)
        variant: Variant = self.config.variant if stage == "collab" else "mask"
        learned, held_out = (subset(samples, self.split(kind)[part]) for part in ("learned", "held_out"))
        if not len(learned):
            raise BadInput(
                f"{stage}: no sample is left to learn from; give more teacher profiles", where=stage
            )
        self.say(f"  {len(learned):,} samples to learn from, {len(held_out):,} held out")
        tune(
            self.model,
            self.prompts,
            learned,
            held_out,
            self.folder / stage,
            getattr(self.config, stage),
            variant=variant,
            start=self.start_of("collab") if stage == "collab" else None,
            seed=self.config.seed,
            what=stage,
            progress=self.progress,
        )

    def _reward(self) -> None:
        pairs = {part: self.pairs(self.reward_users[part]) for part in ("train", "eval")}
        if not len(pairs["train"]):
            raise BadInput("reward: no pair to learn from; give more teacher profiles", where="reward")
        self.say(f"  {len(pairs['train']):,} pairs to learn from, {len(pairs['eval']):,} to evaluate")
        tune_reward(
            self.model,
            self.prompts,
            pairs["train"],
            pairs["eval"],
            self.folder / "reward",
            self.config.reward,
            seed=self.config.seed,
            progress=self.progress,
        )

    def _ppo(self) -> None:
        rows = self.view.users.find(self.reward_users["rl"])
        samples = list(self.instructions.inference(rows, self.neighbours.nearest))
        if not samples:
            raise BadInput(
                "ppo: no user is left to write profiles for; give more teacher profiles", where="ppo"
            )
        adapter = self.tuned.adapter("reward")
        assert adapter is not None
        questions = [sample.messages for sample in samples]
        train_ppo(
            self.model,
            [self.prompts.ids(sample.chat) for sample in samples],
            RewardModel.load(self.model, adapter, self.prompts, questions, START),
            self.folder / "ppo",
            self.config.ppo.model_copy(update={"stop": ENDS}),
            self.config.ppo_lora,
            start=self.start_of("ppo"),
            progress=self.progress,
        )

    def start_of(self, stage: StageName) -> Path | None:
        """Return the adapter that a stage of user profiles starts from: that of the last finished one before it."""
        earlier = WRITERS["user"][: WRITERS["user"].index(stage)]
        adapters = [self.tuned.adapter(name) for name in earlier if name in self.config.stages]
        return next((adapter for adapter in reversed(adapters) if adapter), None)

    @cached_property
    def instructions(self) -> Instructions:
        """Makes the samples of all stages."""
        budget = Budget.of(self.prompts, self.config.instructions)
        return Instructions(self.view, self.config.instructions, budget)

    @cached_property
    def neighbours(self) -> UserNeighbours:
        """Similar users, among all."""
        histories = self.instructions.histories.of_users
        cache = self.folder / "neighbours"
        return UserNeighbours(self.view, histories, self.config.neighbours, cache, self.progress)

    def split(self, kind: ProfileKind) -> dict[str, list[str]]:
        """Split the ids of the teacher's subjects into ``learned`` and ``held_out`` ones."""
        ids = sorted(self.teachers[kind].profiles)
        drawn = np.random.default_rng([self.config.seed, 2]).permutation(len(ids))
        held = round(self.config.held_out * len(ids))
        return {"held_out": [ids[at] for at in drawn[:held]], "learned": [ids[at] for at in drawn[held:]]}

    @cached_property
    def reward_users(self) -> dict[str, np.ndarray]:
        """Ids of learned users in the parts of :class:`RewardDataConfig`."""
        users = np.array(self.split("user")["learned"])
        return split_users(users, self.config.reward_data, np.random.default_rng([self.config.seed, 3]))

    @cached_property
    def learned_neighbours(self) -> np.ndarray:
        """``(U, n)`` similar users of the teacher's users, among the learned ones."""
        taught = self.view.users.find(self.teachers["user"].profiles)
        learned = self.view.users.find(self.split("user")["learned"])
        return self.neighbours.among(learned, taught)

    def samples(self, stage: StageName) -> Any:
        """Return a supervised stage's ``datasets.Dataset``, with the held-out subjects, from ``folder/stage/data``."""
        folder = self.folder / stage / "data"
        if not (folder / ABOUT).is_file():
            samples = self._samples(stage)
            save_samples(folder, samples, self.view, self.config.instructions, self.instructions.report)
        return load_samples(folder)

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
            features = item_features(self.view, self.encoder, self.folder / "neighbours")
            learned = self.view.items.find(self.split("item")["learned"])
            near = similar_items(features, self.config.neighbours, learned, rows)
            yield from self.instructions.warm_items(rows, users, items)
            yield from self.instructions.cold_items(rows, near, items, items)

    def pairs(self, users: np.ndarray) -> Any:
        """Return pairs of ``users`` (ids) for the reward model."""
        rows = self.view.users.find(users)
        profiles = self.teachers["user"].profiles
        generator = np.random.default_rng([self.config.seed, 5])
        samples = self.instructions.inference(rows, self.learned_neighbours)
        return pair_dataset(reward_pairs(samples, profiles, self.config.reward_data, generator, ReadReport()))
