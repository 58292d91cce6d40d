"""How each stage did on held-out subjects: their profiles, Yes and No, the reward model; the report of a run."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from reclm.console import progress_bar
from reclm.data.dataset import ProfileKind
from reclm.files import Journal
from reclm.intervals import Estimate, share
from reclm.llm.chat import plain
from reclm.llm.models import embedded_model
from reclm.profilers.reclm.config import StageName
from reclm.profilers.reclm.instructions import Sample
from reclm.profilers.reclm.prompts import profile_of
from reclm.profilers.reclm.report.card import CardFacts, write_card
from reclm.profilers.reclm.report.compare import Comparison, compare
from reclm.profilers.reclm.report.page import save, terminal_table
from reclm.profilers.reclm.report.quality import HeldOut, Vectors
from reclm.profilers.reclm.reward_model import RewardModel, pair_accuracy
from reclm.profilers.reclm.run_folder import ITEM_STAGES, USER_STAGES
from reclm.profilers.reclm.sft import subset
from reclm.profilers.reclm.yes_no_accuracy import judged
from reclm.profilers.tuning.load_model import quiet
from reclm.profilers.tuning.metrics_log import draw, read_metrics, writing

if TYPE_CHECKING:
    from rich.table import Table

    from reclm.profilers.reclm.pipeline import Tuning

BEFORE = "before"
CURVES = "curves.png"
_HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_TOGETHER = 32


class Measurement:
    """What a tuning is worth, measured on subjects that it did not learn from.

    What was measured is kept in ``folder/measured``, and is not measured again.
    """

    def __init__(self, tuning: "Tuning") -> None:
        self.tuning, self.config = tuning, tuning.config
        self.folder = tuning.folder / "measured"

    def stages(self, kind: ProfileKind) -> list[str]:
        """Who writes profiles of ``kind``: the model as it came, then every stage."""
        writers = USER_STAGES if kind == "user" else ITEM_STAGES
        return [BEFORE, *(one for one in writers if one in self.tuning.stages)]

    def run(self) -> list["Table | str"]:
        """Measure what is not measured yet; write report, curves and model card; tables to be printed."""
        tuning, said = self.tuning, []
        with writing(self.folder), quiet():
            self.folder.mkdir(parents=True, exist_ok=True)
            remarks = [f"{name}: {_said(found)}" for name, found in self.answers().items()]
            comparisons: list[Comparison] = []
            for kind in ("user", "item"):
                if kind in tuning.teachers and len(self.stages(kind)) > 1:
                    comparison = self.compared(kind)
                    comparisons.append(comparison)
                    title = f"Profiles of {tuning.view.name} {kind}s, stage by stage"
                    save(comparison, tuning.folder / "report" / kind, title, remarks=remarks)
                    said.append(terminal_table(comparison))
            curves = {one: read_metrics(tuning.folder / one) for one in tuning.stages}
            title = f"tuning {tuning.model.name} on {tuning.view.name}"
            drawn = draw(curves, tuning.folder / CURVES, title, self.config.ppo.kl_target)
            write_card(
                tuning.folder,
                CardFacts(
                    model=tuning.model.name,
                    dataset=tuning.view.name,
                    fingerprint=tuning.view.fingerprint,
                    stages={one: _settings(self.config, one) for one in tuning.stages},
                    teacher={kind: one.report for kind, one in tuning.teachers.items()},
                    comparisons=comparisons,
                    base_model=_HUB_NAME if tuning.model.path == embedded_model() else None,
                    limits=remarks,
                    pictures=[CURVES] if drawn else [],
                ),
            )
        return [*said, *remarks]

    def answers(self) -> dict[str, Estimate]:
        """Shares of right answers on held-out data: Yes and No, before and after; of the reward model, by negative."""
        return self._judgements() | self._rewards()

    def compared(self, kind: ProfileKind) -> Comparison:
        """The profiles that every stage wrote for held-out subjects of ``kind``."""
        tuning = self.tuning
        subjects, neighbours = self._subjects(kind)
        texts = {stage: self._profiles(kind, stage) for stage in self.stages(kind)}
        held_out = HeldOut(
            kind,
            tuple(subjects),
            teacher=tuning.teachers[kind].profiles,
            histories=self._histories(kind, [*subjects, *neighbours.values()]),
            neighbours={one: (near,) for one, near in neighbours.items()},
            phrases=self.config.instructions.phrases_of(kind),
        )
        return compare(texts, held_out, Vectors(tuning.encoder, tuning.progress))

    def _subjects(self, kind: ProfileKind) -> tuple[list[str], dict[str, str]]:
        """Held-out subjects that are measured, and of users the nearest neighbour."""
        tuning = self.tuning
        subjects = tuning.split(kind)["held_out"][: self.config.measured]
        if kind == "item":
            return subjects, {}
        rows = tuning.view.users.find(subjects)
        nearest = tuning.neighbours.nearest[rows, 0]
        near = tuning.view.users.ids(nearest[nearest >= 0])
        return subjects, dict(
            zip([one for one, row in zip(subjects, nearest, strict=True) if row >= 0], near, strict=True)
        )

    def _histories(self, kind: ProfileKind, ids: list[str]) -> dict[str, str]:
        shown, idmap = self.tuning.instructions.shown, self.tuning.view.idmap(kind)
        rows = idmap.find(ids)
        if kind == "item":
            return {one: shown.lines[row] for one, row in zip(ids, rows, strict=True)}
        lists = shown.histories[rows, : self.config.instructions.history]
        return {
            one: "\n".join(shown.lines[item] for item in items if item >= 0)
            for one, items in zip(ids, lists, strict=True)
        }

    def _profiles(self, kind: ProfileKind, stage: str) -> dict[str, str]:
        """What a stage's model writes, stored answer by answer."""
        done: dict[str, StageName] = {one: one for one in (*USER_STAGES, *ITEM_STAGES)}
        generator = self.tuning.tuned.generator(done.get(stage), self.tuning.model)
        phrases = self.config.instructions.phrases_of(kind)
        params = self.config.generation.params(phrases)
        asked = f"{generator.model} {params.model_dump_json()} {self.config.instructions.model_dump_json()}"
        path = self.folder / f"{kind}-{stage}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.jsonl"
        journal = Journal(path)
        known = {row["id"]: row["text"] for row in journal.rows()}
        subjects, neighbours = self._subjects(kind)
        missing = [one for one in dict.fromkeys([*subjects, *neighbours.values()]) if one not in known]
        if not missing:
            return known
        chats = {one.subject: one.chat for one in self._asked(kind, stage, missing)}
        with progress_bar(f"{kind} profiles, {stage}", len(chats), self.tuning.progress) as advance:
            for answer in generator.generate(chats, params):
                known[answer.key] = profile_of(plain(answer.text))
                journal.append({"id": answer.key, "text": known[answer.key]})
                advance(1)
        journal.close()
        return known

    def _asked(self, kind: ProfileKind, stage: str, ids: list[str]) -> Iterator[Sample]:
        """The prompts of a stage, as its profiles are asked for."""
        tuning = self.tuning
        rows = tuning.view.idmap(kind).find(ids)
        if kind == "item":
            users = tuning.teachers["user"].profiles if "user" in tuning.teachers else {}
            return tuning.instructions.warm_items(rows, users)
        if stage in {BEFORE, "kd"}:
            return tuning.instructions.alone(rows)
        return tuning.instructions.inference(rows, tuning.neighbours.nearest)

    def _judgements(self) -> dict[str, Estimate]:
        tuning = self.tuning
        if "collab" not in tuning.stages:
            return {}
        samples = subset(tuning.samples("collab"), tuning.split("user")["held_out"])
        found = {}
        start: StageName | None = "kd" if "kd" in tuning.stages else None
        stages: dict[str, StageName | None] = {"before": start, "after": "collab"}
        for name, stage in stages.items():
            right = self._kept(f"yes-no-{name}", partial(self._judged, stage, samples))
            said = share(np.array(right, bool))
            if said:
                found[f"Yes and No, {name} collaborative tuning"] = said
        return found

    def _judged(self, stage: StageName | None, samples: Any) -> list[bool]:
        generator: Any = self.tuning.tuned.generator(stage, self.tuning.model).load()
        print(f"yes and no of {len(samples)} held-out pairs", file=sys.stderr)
        return judged(generator.network, self.tuning.prompts, samples).tolist()

    def _rewards(self) -> dict[str, Estimate]:
        tuning = self.tuning
        adapter = tuning.tuned.adapter("reward")
        if adapter is None or "reward" not in tuning.stages:
            return {}

        def counted() -> dict[str, tuple[int, int]]:
            model = RewardModel.load(tuning.model, adapter, tuning.prompts)
            return pair_accuracy(model, tuning.pairs(tuning.reward_users["eval"]))

        found: Mapping[str, tuple[int, int]] = self._kept("reward-pairs", counted)
        estimates = {kind: share(np.arange(many) < right) for kind, (right, many) in found.items()}
        return {f"reward model, {kind}": one for kind, one in estimates.items() if one}

    def _kept(self, name: str, make: Any) -> Any:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(make()), encoding="utf-8")
            os.replace(partial, path)
        return json.loads(path.read_text(encoding="utf-8"))


def _settings(config: Any, stage: StageName) -> dict[str, Any]:
    values = getattr(config, stage).model_dump(mode="json")
    return {**values, "variant": config.variant} if stage == "collab" else values


def _said(found: Estimate) -> str:
    return f"{found.mean:.1%} right of {found.n} [{found.low:.1%}, {found.high:.1%}]"
