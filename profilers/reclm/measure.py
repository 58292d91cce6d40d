"""Measurements of a RecLM tuning: its cost before it is begun, its quality on held-out subjects afterwards."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field, TypeAdapter
from rich.table import Table

from reclm.console import progress_bar, rich_table
from reclm.data.dataset import ProfileKind
from reclm.files import atomic_file
from reclm.intervals import Estimate, duration, share
from reclm.llm.chat import Chat
from reclm.profilers.reclm.config import WRITERS, StageName, SupervisedConfig
from reclm.profilers.reclm.profiler import RecLMProfiler
from reclm.profilers.reclm.report import save_report, terminal_table, write_card
from reclm.profilers.reclm.reward_model import RewardModel, pair_accuracy, tokenise_pairs
from reclm.profilers.reclm.samples import formatted, messages_of
from reclm.profilers.reclm.stages import label_samples, token_table, yes_no_accuracy
from reclm.profilers.tuning.adapter import add_adapter
from reclm.profilers.tuning.metrics_log import draw, read_metrics, writing
from reclm.profilers.tuning.quality import Comparison, HeldOut, Vectors, compare_stages
from reclm.profilers.tuning.training import evenly, load_network, quiet
from reclm.profiles.estimate import Estimate as ProfilesEstimate
from reclm.profiles.estimate import KindEstimate
from reclm.profiles.store import KINDS, ProfileStore

if TYPE_CHECKING:
    from reclm.profilers.reclm.pipeline import RecLMPipeline

BEFORE = "before"
CURVES = "curves.png"
_SAMPLE = 200
"""Samples whose tokens are counted for an estimate."""


def _within(count: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= count[0] <= count[1]:
        raise ValueError(f"{count[0]} right of {count[1]} pairs")
    return count


_COUNTS = TypeAdapter(dict[str, Annotated[tuple[int, int], AfterValidator(_within)]])
"""Pairs that are rated right, and all, by negative."""


class Measurement:
    """Measures a tuning on subjects that it did not learn from; results are cached in ``folder/measured``."""

    def __init__(self, tuning: "RecLMPipeline") -> None:
        self.tuning, self.config = tuning, tuning.config
        self.folder = tuning.folder / "measured"

    def run(self) -> list[Table | str]:
        """Measure what is not measured yet, write all reports, and return tables and lines to print."""
        tuning = self.tuning
        with writing(self.folder), quiet():
            self.folder.mkdir(parents=True, exist_ok=True)
            right = self._yes_no() | self._reward()
            remarks = [
                f"{name}: {value.mean:.1%} right of {value.n} [{value.low:.1%}, {value.high:.1%}]"
                for name, value in right.items()
                if value
            ]
            comparisons = []
            for kind in KINDS:
                if kind in tuning.teachers and len(self._stages(kind)) > 1:
                    comparisons.append(self._compared(kind))
                    title = f"Profiles of {tuning.view.name} {kind}s, stage by stage"
                    save_report(comparisons[-1], tuning.folder / "report" / kind, title, remarks)
            curves = {stage: read_metrics(tuning.folder / stage) for stage in tuning.stages}
            title = f"tuning {tuning.model.name} on {tuning.view.name}"
            drawn = draw(curves, tuning.folder / CURVES, title, self.config.ppo.kl_target)
            settings = {stage: getattr(self.config, stage).model_dump(mode="json") for stage in tuning.stages}
            if "collab" in settings:
                settings["collab"]["variant"] = self.config.variant
            write_card(tuning, settings, comparisons, remarks, CURVES if drawn else "")
        return [*map(terminal_table, comparisons), *remarks]

    def _stages(self, kind: ProfileKind) -> list[str]:
        return [BEFORE, *(stage for stage in WRITERS[kind] if stage in self.tuning.stages)]

    def _compared(self, kind: ProfileKind) -> Comparison:
        tuning = self.tuning
        subjects, neighbours = self._subjects(kind)
        ids = list(dict.fromkeys([*subjects, *neighbours.values()]))
        texts = {stage: self._profiles(kind, stage, ids) for stage in self._stages(kind)}
        held_out = HeldOut(
            kind,
            tuple(subjects),
            teacher=tuning.teachers[kind].profiles,
            histories=self._histories(kind, ids),
            neighbours={subject: (near,) for subject, near in neighbours.items()},
            phrases=self.config.instructions.phrases_of(kind),
        )
        return compare_stages(texts, held_out, Vectors(tuning.encoder, tuning.progress))

    def _subjects(self, kind: ProfileKind) -> tuple[list[str], dict[str, str]]:
        """Return the held-out subjects to measure, and of users the nearest neighbour."""
        tuning = self.tuning
        subjects = tuning.split(kind)["held_out"][: self.config.measured]
        if kind == "item":
            return subjects, {}
        nearest = tuning.neighbours.nearest[tuning.view.users.find(subjects), 0]
        near = tuning.view.users.ids(nearest[nearest >= 0])
        with_neighbour = [user for user, row in zip(subjects, nearest, strict=True) if row >= 0]
        return subjects, dict(zip(with_neighbour, near, strict=True))

    def _histories(self, kind: ProfileKind, ids: list[str]) -> dict[str, str]:
        histories = self.tuning.instructions.histories
        lists = self.tuning.view.idmap(kind).find(ids)[:, None]
        if kind == "user":
            lists = histories.of_users[lists[:, 0], : self.config.instructions.history]
        return {id: "\n".join(histories.named(items)) for id, items in zip(ids, lists, strict=True)}

    def _profiles(self, kind: ProfileKind, stage: str, ids: list[str]) -> dict[str, str]:
        """Return the profiles of a stage's model by id; each is stored as soon as it is written.

        A subject whose answer is no profile is left out.
        """
        tuning = self.tuning
        generator = tuning.tuned.generator(None if stage == BEFORE else stage, tuning.model)
        profiler = RecLMProfiler(
            self.config, generator=generator, folder=tuning.folder, encoder=tuning.encoder
        )
        profiler.neighbours = tuning.neighbours.nearest if stage in {"collab", "ppo"} else None
        rows = tuning.view.idmap(kind).find(ids)
        known = {"user": tuning.teachers["user"].profiles} if "user" in tuning.teachers else {}
        folder = self.folder / stage / kind
        with ProfileStore.open(folder, tuning.view.fingerprint, generator.model, tuning.view.name) as store:
            stored = store.hashes(kind)
            prompts = list(profiler.subjects(tuning.view, kind, rows, known))
            missing = [prompt for prompt in prompts if stored.get(prompt.id) != prompt.prompt_hash]
            with progress_bar(f"{kind} profiles, {stage}", len(missing), tuning.progress) as advance:
                for profile in profiler.write(missing):
                    store.add([profile])
                    advance(1)
            texts = store.texts(kind)
        return {prompt.id: texts[prompt.id] for prompt in prompts if prompt.id in texts}

    def _yes_no(self) -> dict[str, Estimate | None]:
        """Return the shares of right answers to held-out questions (equation 4), before and after the stage."""
        tuning = self.tuning
        if "collab" not in tuning.stages:
            return {}
        samples = tuning.parts("collab")[1]

        def measured(stage: StageName | None) -> list[bool]:
            generator: Any = tuning.tuned.generator(stage, tuning.model).load()
            print(f"yes and no of {len(samples)} held-out pairs", file=sys.stderr)
            return yes_no_accuracy(generator.network, tuning.prompts, samples).tolist()

        answers = TypeAdapter(Annotated[list[bool], Field(min_length=len(samples), max_length=len(samples))])
        stages = {"before": "kd" if "kd" in tuning.stages else None, "after": "collab"}
        return {
            f"Yes and No, {name} collaborative tuning": share(
                self._cached(f"yes-no-{name}", answers, measured, stage)
            )
            for name, stage in stages.items()
        }

    def _reward(self) -> dict[str, Estimate | None]:
        """Return the shares of held-out pairs whose better profile the reward model rates higher, by negative."""
        tuning = self.tuning
        adapter = tuning.tuned.adapter("reward")
        if adapter is None or "reward" not in tuning.stages:
            return {}

        def counted() -> dict[str, tuple[int, int]]:
            model = RewardModel.load(tuning.model, adapter, tuning.prompts)
            return pair_accuracy(model, tuning.parts("reward")[1])

        counts = self._cached("reward-pairs", _COUNTS, counted)
        return {
            f"reward model, {kind}": share(np.arange(pairs) < right)
            for kind, (right, pairs) in counts.items()
        }

    def _cached(self, name: str, made: TypeAdapter[Any], make: Callable[..., Any], *arguments: Any) -> Any:
        """Return what is cached as ``name``; where nothing of the type ``made`` is, ``make`` it (again)."""
        path = self.folder / f"{name}.json"
        with suppress(OSError, ValueError, RecursionError):
            return made.validate_json(path.read_bytes(), strict=True)
        text = json.dumps(make(*arguments))
        with atomic_file(path) as draft:
            draft.write_text(text, encoding="utf-8")
        return json.loads(text)


def sample_texts(tuning: "RecLMPipeline", count: int) -> Iterator[str]:
    """Yield ``count`` samples of each stage (see :meth:`RecLMPipeline.sample_texts`)."""
    for stage in tuning.stages:
        if stage == "reward":
            pairs = tuning.parts(stage)[0]
            rows = (
                f"── {row['subject']}: {row['negative']}\n[better] {row['chosen'][0]['content']}\n"
                f"[worse]  {row['rejected'][0]['content']}"
                for row in pairs.select(evenly(len(pairs), count))
            )
            yield "══ reward\n" + "\n\n".join(rows)
        elif stage != "ppo":
            samples = tuning.samples(stage)
            yield f"══ {stage}: {len(samples):,} samples in {tuning.folder / stage / 'data'}"
            yield formatted(samples, count)
            if stage == "collab":
                yield token_table(tuning.prompts, messages_of(samples[0]["messages"]))


def estimate(tuning: "RecLMPipeline") -> Table:
    """Return a table of the cost of every stage; the rate is that of one update of the model on this machine."""
    rate = _tokens_a_second(tuning)
    costs = {stage: _cost(tuning, stage) for stage in tuning.stages}
    rows = [
        (stage, f"{samples:,}", f"{tokens:,}", f"{updates:,}", duration(tokens / rate))
        for stage, (samples, tokens, updates) in costs.items()
    ]
    rows.append(("all", "", "", "", duration(sum(tokens / rate for _, tokens, _ in costs.values()))))
    head = ("stage", "samples", "tokens", "updates", "time (estimate)")
    caption = f"{rate:,.0f} tokens a second, measured on one update; data and measurements not counted"
    return rich_table("dry run: nothing is tuned", head, rows, caption)


def teacher_estimate(parts: Sequence[KindEstimate]) -> Table:
    """Return a table of the cost of the teacher's profiles."""
    rows = [(f"of {part.plan.kind}s", str(ProfilesEstimate((part,)))) for part in parts]
    caption = "the stages can be estimated once it has written"
    return rich_table("dry run: nothing is asked", ("teacher's profiles", "work"), rows, caption)


def _cost(tuning: "RecLMPipeline", stage: StageName) -> tuple[int, int, int]:
    """Return samples, tokens that go through the model forward and backward, and updates of a stage."""
    if stage == "ppo":
        ppo, users = tuning.config.ppo, tuning.reward_users["rl"]
        rows = tuning.view.users.find(users[:_SAMPLE])
        samples = tuning.instructions.inference(rows, tuning.learned_neighbours)
        lengths = [len(tuning.prompts.ids(Chat(sample.messages))) for sample in samples]
        length = float(np.mean(lengths)) + ppo.max_new_tokens / 2 if lengths else 0.0
        # forward and backward are three forward passes; sampling, scoring twice and rewards are one more each
        passes = ppo.epochs + 4 / 3
        return len(users), round(ppo.steps * ppo.batch_size * length * passes), ppo.steps
    config: SupervisedConfig = getattr(tuning.config, stage)
    learned, tokens = tuning.parts(stage)[0], tokenise_pairs if stage == "reward" else label_samples
    count = len(learned)
    rows = tokens(learned.select(evenly(count, _SAMPLE)), tuning.prompts)
    lengths = [sum(len(ids) for name, ids in row.items() if name != "labels") for row in rows]
    seen = round(config.epochs * (count if config.limit is None else min(config.limit, count)))
    updates = -(-seen // (config.batch_size * config.accumulate))
    return count, round(seen * float(np.mean(lengths or [0]))), updates


def _tokens_a_second(tuning: "RecLMPipeline") -> float:
    """Measure the model's tokens a second, forward and backward."""
    config = tuning.config.kd
    network: Any = add_adapter(load_network(tuning.model, config.four_bit), config.lora)
    size = min(128, tuning.prompts.context)
    vocabulary = network.get_input_embeddings().weight.shape[0]
    ids = torch.arange(4 * size).reshape(4, size).to(network.device) % vocabulary
    labels = torch.full_like(ids, -100)
    labels[:, -size // 4 :] = ids[:, -size // 4 :]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        float(network(input_ids=ids, labels=labels).loss.backward() or 0)
        seconds.append(time.perf_counter() - start)
    return ids.numel() / min(seconds)
