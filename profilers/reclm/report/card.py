"""The model card of a tuned profiler: ``README.md`` beside the adapter, as the Hugging Face hub reads it."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from reclm import console as markdown
from reclm.console import fenced, literal
from reclm.data.dataset import ReadReport
from reclm.environment import environment
from reclm.errors import ReclmError
from reclm.folders import slug
from reclm.profilers.reclm.report.compare import Comparison
from reclm.profilers.reclm.report.page import NOTES, quality_table

FILE = "README.md"
PAPER = "https://arxiv.org/abs/2412.19302"
TAGS = ("reclm", "recommender-systems", "user-profiles", "lora")
LIMITS = (
    "A profile is a guess from what somebody chose. It may be wrong about a person, or say what that person would "
    "not want said; treat it as personal data.",
    "The model imitates its teacher, with the teacher's mistakes and biases.",
    "Quality was measured on subjects of this data set. Other items, other languages and other prompts were not tried.",
    "Close to the teacher is not the same as useful to a recommender: compare the recommender with and without "
    "profiles (reclm bench --augment).",
)
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, eq=False)
class CardFacts:
    """What a card is made of.

    Attributes:
        model: the base model as reclm names it (``LanguageModel.name``: a name, ``@`` and a hash).
        dataset, fingerprint: of the data set it was tuned on.
        stages: settings by stage, in the order in which they ran.
        teacher: what was kept and dropped of the teacher's profiles, by kind.
        comparisons: quality by stage, of users, of items.
        environment: versions and machine.
        base_model: the base model's name on the hub, where ``model`` does not say it.
        license: an id of the hub; the adapter's is for its maker to say, as base model and teacher have terms.
        limits: what else does not work, a line each (plain text).
        pictures: names of files in the card's folder, such as the training curves.
    """

    model: str
    dataset: str
    fingerprint: str
    stages: Mapping[str, Mapping[str, Any]]
    teacher: Mapping[str, ReadReport] = field(default_factory=dict)
    comparisons: Sequence[Comparison] = ()
    environment: Mapping[str, Any] = field(default_factory=environment)
    base_model: str | None = None
    license: str = "unknown"
    limits: Sequence[str] = ()
    pictures: Sequence[str] = ()

    @property
    def hub_model(self) -> str | None:
        """The base model's name on the hub; None for one that is only on this machine."""
        name = self.base_model or self.model.partition("@")[0]
        return name if _HUB.fullmatch(name) else None


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write ``README.md``, in place of the one that PEFT wrote when it saved the adapter; returns its path.

    What comes from data stands in it as it is. Of paths only the last part is told.

    Raises:
        ReclmError: if it cannot be written.
    """
    card = ModelCard(f"---\n{_front(facts).to_yaml()}\n---\n\n{_body(facts)}")
    path = folder / FILE
    try:
        card.save(path)
    except OSError as error:
        raise ReclmError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _front(facts: CardFacts) -> ModelCardData:
    return ModelCardData(
        base_model=facts.hub_model,
        library_name="peft",
        pipeline_tag="text-generation",
        license=facts.license,
        tags=list(TAGS),
        datasets=[slug(facts.dataset)],
    )


def _body(facts: CardFacts) -> str:
    model = literal(nameless(facts.model))
    parts = [
        f"# RecLM profiler: {model} on {literal(facts.dataset)}",
        f"A LoRA adapter that writes user and item profiles for recommenders, tuned as in [RecLM]({PAPER}).",
        "## Use",
        fenced(
            f"reclm profile --profiler reclm --adapter DIR --dataset {shlex.quote(' '.join(facts.dataset.split()))}",
            "bash",
        ),
        "`DIR` is this folder. The base model is the one that it was tuned from.",
        "## Training data",
        markdown.table(["", ""], list(_data(facts)), text=2),
        *_quality(facts),
        *(f"![{literal(Path(one).stem)}]({slug(one)})" for one in facts.pictures),
        "## Limits",
        "\n".join(f"- {literal(line)}" for line in (*LIMITS, *facts.limits)),
        "## Settings",
        *(part for stage, settings in facts.stages.items() for part in _settings(stage, settings)),
        "## Environment",
        _yaml(facts.environment),
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: CardFacts) -> list[list[str]]:
    rows = [["data set", literal(facts.dataset)], ["fingerprint", literal(facts.fingerprint)]]
    rows.append(["base model", literal(nameless(facts.model))])
    for kind, report in facts.teacher.items():
        rows.append([f"teacher's {literal(kind)} profiles", f"{sum(report.kept.values()):,}"])
        rows += [[f"left out: {literal(why)}", f"{count:,}"] for why, count in report.dropped.items()]
    return rows


def _quality(facts: CardFacts) -> list[str]:
    if not facts.comparisons:
        return []
    parts = ["## Quality by stage"]
    for one in facts.comparisons:
        parts += [f"{len(one.held_out.subjects):,} held-out {one.held_out.kind}s:", quality_table(one)]
    return [*parts, "\n".join(f"- {note}" for note in NOTES)]


def _settings(stage: str, settings: Mapping[str, Any]) -> list[str]:
    return [f"### {literal(stage)}", _yaml(settings)]


def _yaml(values: Mapping[str, Any]) -> str:
    return fenced(yaml.safe_dump(nameless(values), sort_keys=False, allow_unicode=True), "yaml")


def nameless(value: Any) -> Any:
    """Plain values in which a path, also within lists and mappings, is only its last part: no machine is named.

    >>> nameless({"file": "/home/ann/teacher.csv", "lr": 1e-4})
    {'file': 'teacher.csv', 'lr': 0.0001}
    """
    if isinstance(value, Mapping):
        return {str(name): nameless(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(one) for one in value]
    if value is None or type(value) in (bool, int, float):
        return value
    text = str(value)
    if isinstance(value, Path) or text.startswith(("/", "./", "../", "~")):
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if PureWindowsPath(text).is_absolute() else text
