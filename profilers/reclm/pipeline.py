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
from reclm.profilers.reclm.config import ENDS, WRITERS, RecLMConfig, StageName, SupervisedConfig
from reclm.profilers.reclm.neighbours import UserNeighbours, similar_items
from reclm.profilers.reclm.profiler import RecLMFolder
from reclm.profilers.reclm.reward_model import RewardModel, pair_dataset, reward_pairs, split_users
from reclm.profilers.reclm.samples import ABOUT, Instructions, Sample, load_samples, subset
from reclm.profilers.reclm.stages import StageRun, train_ppo, tune, tune_reward
from reclm.profilers.reclm.teacher import Teacher, TeacherModel, read_teacher
from reclm.profilers.tuning.run_folder import Tuning
from reclm.profilers.tuning.training import quiet
from reclm.profiles.store import KINDS

if TYPE_CHECKING:
    from rich.table import Table


class RecLMPipeline(Tuning):
    """A run of the stages that ``config`` names; see :class:`~reclm.profilers.tuning.run_folder.Tuning`."""

    Folder = RecLMFolder
    config: RecLMConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        teacher, self.teacher_model = self.config.teacher, None
        if teacher.model or teacher.engine:
            self.teacher_model = TeacherModel(self.view, self.config, self.folder / "teacher")
        elif teacher.users or (self.config.stages == ("items",) and teacher.items):
            _ = self.teachers
        else:
            raise BadInput(
                "tuning needs user profiles to learn from: give --teacher FILE, or --teacher-model NAME",
                where="teacher",
                remedy="--teacher FILE",
            )
        self.tuned: RecLMFolder = self.begin()

    @cached_property
    def teachers(self) -> dict[ProfileKind, Teacher]:
        """The teacher's profiles by kind: from the files that the config names, or written by its model first."""
        config = self.config.teacher
        paths = {kind: config.file(kind) for kind in KINDS}
        if self.teacher_model:
            self.teacher_model.write(self.progress)
            paths |= dict.fromkeys(self.teacher_model.kinds, self.teacher_model.folder)
        return {kind: read_teacher(path, self.view, kind, config) for kind, path in paths.items() if path}

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
        if not samples:
            raise BadInput(
                "ppo: no user is left to write profiles for; give more teacher profiles", where="ppo"
            )
        adapter = self.tuned.adapter("reward")
        assert adapter is not None
        questions = [sample.messages for sample in samples]
        train_ppo(
            run,
            [self.prompts.ids(sample.chat) for sample in samples],
            RewardModel.load(self.model, adapter, self.prompts, questions, START),
            self.config.ppo.model_copy(update={"stop": ENDS}),
            self.config.ppo_lora,
            self.start_of("ppo"),
        )

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
        return pair_dataset(reward_pairs(samples, profiles, self.config.reward_data, generator, ReadReport()))
