"""The stages of RecLM's tuning, one behind the other (arXiv 2412.19302, sections 2.2 to 2.4).

What is done stays done: data, adapters and measurements lie in the folder of their stage, and a run that was broken
goes on from there.
"""

import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.errors import ReclmError
from reclm.llm.models import LanguageModel, context_length, load_tokenizer
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import START
from reclm.profilers.reclm import dataset
from reclm.profilers.reclm.budget import budget
from reclm.profilers.reclm.config import ENDS, RecLMConfig, StageName
from reclm.profilers.reclm.instructions import Instructions, Sample
from reclm.profilers.reclm.masking import Variant
from reclm.profilers.reclm.neighbours import UserNeighbours, item_features, similar_items
from reclm.profilers.reclm.ppo_stage import refine
from reclm.profilers.reclm.reward_data import as_dataset, reward_pairs, split_users
from reclm.profilers.reclm.reward_model import RewardModel, tune_reward
from reclm.profilers.reclm.run_folder import USER_STAGES, Tuned
from reclm.profilers.reclm.sft import subset, tune
from reclm.profilers.reclm.teacher import Teacher, read_teacher
from reclm.profilers.reclm.teacher_model import AskedTeacher
from reclm.profilers.tuning.load_model import quiet
from reclm.profiles.store import KINDS
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from rich.table import Table


class Tuning:
    """A run of the stages that ``config`` names.

    Args:
        view: the training part.
        config: see :class:`RecLMConfig`.
        model: what is tuned.
        folder: where; what was done there with the same options is not done again.
        asked_model: the name that ``model`` was found by.
        encoder: finds similar items.
        progress: show bars and say what is done, on stderr.

    Raises:
        ReclmError: if ``folder`` holds another tuning, the model has no chat template, or the teacher's profiles
            cannot be had.
    """

    def __init__(
        self,
        view: TrainingView,
        config: RecLMConfig,
        model: LanguageModel,
        folder: Path,
        *,
        asked_model: str | None = None,
        encoder: TextEncoder | None = None,
        progress: bool = True,
    ) -> None:
        self.view, self.config, self.model, self.folder, self.progress = view, config, model, folder, progress
        self.prompts = PromptTokenizer(load_tokenizer(model), context_length(model), model.name)
        self.encoder = encoder or TextEncoder()
        asked = config.teacher.model or config.teacher.engine
        self.asked = AskedTeacher(view, config, folder / "teacher") if asked else None
        if not self.asked and not (
            config.teacher.users or (config.stages == ("items",) and config.teacher.items)
        ):
            raise ReclmError(
                "tuning needs user profiles to learn from: give --teacher FILE, or --teacher-model NAME"
            )
        if not self.asked:
            _ = self.teachers
        self.tuned = Tuned.begin(folder, config, view, model, asked_model)

    @cached_property
    def teachers(self) -> dict[ProfileKind, Teacher]:
        """The teacher's profiles by kind: from the files that the config names, or asked of its model first.

        Raises:
            ReclmError: as :func:`read_teacher` does, and if the model is not there.
        """
        paths = {"user": self.config.teacher.users, "item": self.config.teacher.items}
        if self.asked:
            self.asked.ask(self.progress)
            paths |= dict.fromkeys(self.asked.kinds, self.asked.folder)
        return {
            kind: read_teacher(path, self.view, kind, self.config.teacher)
            for kind in KINDS
            if (path := paths[kind])
        }

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Those that there are teacher profiles for."""
        return tuple(one for one in self.config.stages if one != "items" or "item" in self.teachers)

    def run(self) -> None:
        """Do every stage that is not done."""
        self.tuned.write()
        with quiet():
            for stage in self.stages:
                self._finish(stage)

    def next_command(self) -> list[str]:
        """What uses what was tuned, without the data set."""
        return ["reclm", "profile", "--profiler", "reclm", "--adapter", str(self.folder)]

    def results(self) -> "list[Table | str]":
        """Measure on held-out subjects what is not measured yet, and write report, curves and model card.

        Returns:
            Tables and lines to be printed.
        """
        from reclm.profilers.reclm.measure import Measurement

        return Measurement(self).run() if self.config.measured else []

    def shown(self, count: int) -> Iterator[str]:
        """``count`` samples of each stage as a person reads them, and which tokens of a two-turn one carry loss."""
        from reclm.profilers.reclm.preview import shown

        with quiet():
            yield from shown(self, count)

    def estimate(self) -> "Table":
        """What every stage would take: samples, tokens, updates, and time from what one update takes here.

        Of a teacher that is to be asked, what asking takes: without its profiles the stages cannot be told.
        """
        from reclm.profilers.reclm.preview import asking, estimate

        with quiet():
            open_ = self.asked.estimate() if self.asked else []
            if any(one.plan.prompts for one in open_):
                return asking(open_)
            return estimate(self)

    def _finish(self, stage: StageName) -> None:
        if self.tuned.adapter(stage):
            return
        self._say(f"{stage}:")
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
            raise ReclmError(f"{stage}: no sample is left to learn from; give more teacher profiles")
        self._say(f"  {len(learned):,} samples to learn from, {len(held_out):,} held out")
        start = self.tuned.adapter("kd") if stage == "collab" and "kd" in self.config.stages else None
        tune(
            self.model,
            self.prompts,
            learned,
            held_out,
            self.folder / stage,
            getattr(self.config, stage),
            variant=variant,
            start=start,
            seed=self.config.seed,
            what=stage,
            progress=self.progress,
        )

    def _reward(self) -> None:
        parts = self.reward_users
        pairs = {part: self.pairs(parts[part]) for part in ("train", "eval")}
        if not len(pairs["train"]):
            raise ReclmError("reward: no pair to learn from; give more teacher profiles")
        self._say(f"  {len(pairs['train']):,} pairs to learn from, {len(pairs['eval']):,} to evaluate")
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
            raise ReclmError("ppo: no user is left to write profiles for; give more teacher profiles")
        adapter = self.tuned.adapter("reward")
        assert adapter is not None
        reward = RewardModel.load(self.model, adapter, self.prompts, [one.messages for one in samples], START)
        refine(
            self.model,
            [self.prompts.ids(one.chat) for one in samples],
            reward,
            self.folder / "ppo",
            self.config.ppo.model_copy(update={"stop": ENDS}),
            self.config.ppo_lora,
            start=self.tuned_before_ppo,
            progress=self.progress,
        )

    @property
    def tuned_before_ppo(self) -> Path | None:
        """The adapter that PPO begins from."""
        done = [self.tuned.adapter(one) for one in USER_STAGES[:-1] if one in self.config.stages]
        return next((one for one in reversed(done) if one), None)

    @cached_property
    def instructions(self) -> Instructions:
        """Makes the samples of all stages."""
        return Instructions(
            self.view, self.config.instructions, budget(self.prompts, self.config.instructions)
        )

    @cached_property
    def neighbours(self) -> UserNeighbours:
        """Similar users, among all."""
        return UserNeighbours(
            self.view,
            self.instructions.shown.histories,
            self.config.neighbours,
            self.folder / "neighbours",
            self.progress,
        )

    def split(self, kind: ProfileKind) -> dict[str, list[str]]:
        """The teacher's subjects: ids that are ``learned`` from, and ``held_out`` ones that measure."""
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
        """``(U, n)`` similar users of the teacher's users, among those that are learned from."""
        everyone = self.view.users.find(self.teachers["user"].profiles)
        learned = self.view.users.find(self.split("user")["learned"])
        return self.neighbours.among(learned, everyone)

    def samples(self, stage: StageName) -> Any:
        """A supervised stage's ``datasets.Dataset``, held-out subjects' samples too, in ``folder/stage/data``."""
        folder = self.folder / stage / "data"
        if not (folder / dataset.ABOUT).is_file():
            made = {"kd": self._kd_samples, "collab": self._collab_samples, "items": self._item_samples}[
                stage
            ]()
            dataset.save(folder, made, self.view, self.config.instructions, self.instructions.report)
        return dataset.load(folder)

    def _kd_samples(self) -> Iterator[Sample]:
        return self.instructions.kd(self.teachers["user"].profiles)

    def _collab_samples(self) -> Iterator[Sample]:
        generator = np.random.default_rng([self.config.seed, 4])
        return self.instructions.collaborative(
            self.learned_neighbours, self.teachers["user"].profiles, generator
        )

    def _item_samples(self) -> Iterator[Sample]:
        items, rows = self.teachers["item"].profiles, self.view.items.find(self.teachers["item"].profiles)
        users = self.teachers["user"].profiles if "user" in self.teachers else {}
        features = item_features(self.view, self.encoder, self.folder / "neighbours")
        learned = self.view.items.find(self.split("item")["learned"])
        near = similar_items(features, self.config.neighbours, learned, rows)
        yield from self.instructions.warm_items(rows, users, items)
        yield from self.instructions.cold_items(rows, near, items, items)

    def pairs(self, users: np.ndarray) -> Any:
        """Pairs of ``users`` (ids) for the reward model."""
        rows = self.view.users.find(users)
        profiles = self.teachers["user"].profiles
        generator = np.random.default_rng([self.config.seed, 5])
        asked = self.instructions.inference(rows, self.learned_neighbours)
        return as_dataset(reward_pairs(asked, profiles, self.config.reward_data, generator, ReadReport()))

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr)
