"""The report of a RecLM tuning: quality by stage as Markdown and on the terminal, and the model card."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from rich import box
from rich.markup import escape
from rich.table import Table

from reclm.console import fenced, literal, printable, table
from reclm.data.dataset import ReadReport
from reclm.environment import environment
from reclm.errors import BadInput
from reclm.folders import slug
from reclm.intervals import Estimate
from reclm.profilers.tuning.quality import Comparison, StageQuality

CARD = "README.md"
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
LONGEST = 400
"""Characters of a profile that are printed: a faulty one may go on for long."""
HISTORY = 10
"""Lines of a history that are printed, of at most ``LINE`` characters."""
LINE = 160

COLUMNS = (
    "n",
    "in format",
    "words",
    "distinct-1",
    "distinct-2",
    "repeated",
    "teacher",
    "another's teacher",
    "neighbours",
    "strangers",
)
NOTES = (
    "**n**: subjects that have a profile. Brackets hold 95 % intervals: Wilson's of shares, Student's of means.",
    "**in format**: profiles of the form asked for, with as many phrases as asked for.",
    "**distinct-1**, **distinct-2**: different words, and different pairs of successive words, over all of them; the "
    "headings of the format are left out.",
    "**repeated**: profiles that say a phrase twice.",
    "**teacher**: cosine to the teacher's profile of the same subject. **another's teacher**: cosine to the teacher's "
    "profiles of the others, the value of a profile of nobody in particular.",
    "**neighbours**: cosine to the profiles that the same stage wrote for a subject's neighbours. **strangers**: to "
    "all others. The profiles of a stage are over-smoothed where neighbours are closer than they are by the teacher's "
    "own profiles and by their histories.",
)
_NONE = "–"

Row = tuple[str, list[tuple[str, str]]]


def quality_rows(comparison: Comparison) -> list[Row]:
    """Return name and, for each of ``COLUMNS``, a number and its interval (or ""): stages, teacher, histories."""
    measured = [*comparison.quality, *([comparison.teacher] if comparison.teacher else [])]
    rows = [(stage.stage, _cells(stage)) for stage in measured]
    # a history has no stage: take the stage that wrote for most
    with_histories = [stage for stage in comparison.quality if stage.history_neighbours is not None]
    if with_histories:
        most = max(with_histories, key=lambda stage: stage.subjects)
        cells = [("", "")] * (len(COLUMNS) - 2)
        cells += [(_number(most.history_neighbours), ""), (_number(most.history_strangers), "")]
        rows.append(("histories", cells))
    return rows


def terminal_table(comparison: Comparison) -> Table:
    """Return the quality of the stages, a column each, so that it fits a terminal; intervals below their numbers."""
    count, kind = len(comparison.held_out.subjects), comparison.held_out.kind
    grid = Table(
        title=f"profiles of {count:,} held-out {kind}s by stage",
        caption="below a number its 95 % interval",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    rows = quality_rows(comparison)
    grid.add_column("", no_wrap=True)
    for name, _ in rows:
        grid.add_column(escape(printable(name)), justify="right")
    for at, measure in enumerate(COLUMNS):
        values = (cells[at] for _, cells in rows)
        grid.add_row(
            measure, *(number + f"\n[dim]{interval}[/]" * bool(interval) for number, interval in values)
        )
    return grid


def quality_table(comparison: Comparison) -> str:
    """Return the same as a Markdown table, a row a stage; intervals behind their numbers."""
    body = [
        [literal(name), *(number + f" [{interval}]" * bool(interval) for number, interval in cells)]
        for name, cells in quality_rows(comparison)
    ]
    return table(["", *COLUMNS], body)


def report_page(comparison: Comparison, title: str, examples: int = 5, remarks: Sequence[str] = ()) -> str:
    """Return the report as Markdown. Texts, ids and names cannot act as Markdown in it.

    Args:
        title: of the page.
        examples: number of subjects that are shown side by side.
        remarks: further findings, a line each (plain text).
    """
    kind = comparison.held_out.kind
    parts = [
        f"# {literal(title)}",
        f"Profiles of {len(comparison.held_out.subjects):,} held-out {kind}s that no stage was tuned on.",
        *([_bullets(remarks)] if remarks else []),
        "## Quality by stage",
        quality_table(comparison),
        "\n".join(f"- {note}" for note in NOTES),
        "## Profiles that are not in the format",
        *(_failures(comparison, measured) for measured in comparison.quality),
        "## The same subjects, stage by stage",
    ]
    parts.append("Evenly spread over those that every stage wrote for.")
    parts += [_side_by_side(comparison, id) for id in comparison.spread(examples)]
    return "\n\n".join(parts) + "\n"


def save_report(
    comparison: Comparison,
    folder: Path,
    title: str,
    examples: int = 5,
    remarks: Sequence[str] = (),
) -> None:
    """Write ``report.md`` (see :func:`report_page`) and ``report.json``, all numbers of all stages (null: none)."""
    numbers = {
        "title": title,
        "kind": comparison.held_out.kind,
        "subjects": len(comparison.held_out.subjects),
        "stages": [asdict(stage) for stage in comparison.quality],
        "teacher": asdict(comparison.teacher) if comparison.teacher else None,
        "remarks": list(remarks),
    }
    text = report_page(comparison, title, examples, remarks)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.md").write_text(text, encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"cannot write the report in {folder}: {error.strerror or error}", value=folder
        ) from error


def _cells(stage: StageQuality) -> list[tuple[str, str]]:
    return [
        (f"{stage.subjects:,}", ""),
        _share(stage.compliance),
        (_NONE if stage.words is None else f"{stage.words:.1f}", ""),
        (_number(stage.distinct_1), ""),
        (_number(stage.distinct_2), ""),
        (_NONE if stage.repetition is None else f"{stage.repetition:.1%}", ""),
        _cosine(stage.teacher),
        (_number(stage.other_teacher), ""),
        _cosine(stage.neighbours),
        (_number(stage.strangers), ""),
    ]


def _share(value: Estimate | None) -> tuple[str, str]:
    if value is None or value.low is None or value.high is None:
        return _NONE, ""
    return f"{value.mean:.1%}", f"{value.low * 100:.3g}–{value.high * 100:.3g}"


def _cosine(value: Estimate | None) -> tuple[str, str]:
    if value is None:
        return _NONE, ""
    known = value.low is not None and value.high is not None
    return _number(value.mean), f"{_number(value.low)}–{_number(value.high)}" * known


def _number(value: float | None) -> str:
    """Format a number as ``.862``, ``1.000`` or ``-.050``."""
    return _NONE if value is None else f"{value:.3f}".replace("0.", ".", 1)


def _bullets(lines: Sequence[str], longest: int | None = None) -> str:
    return "\n".join(f"- {literal(line, longest)}" for line in lines)


def _failures(comparison: Comparison, measured: StageQuality) -> str:
    """Return the counts of a stage's faults of format, with an example of each."""
    name = literal(measured.stage)
    count = sum(measured.faults.values())
    if not count:
        return (
            f"**{name}**: none of {measured.subjects:,}." if measured.subjects else f"**{name}**: no profile."
        )
    examples = comparison.malformed(measured.stage)
    body = [
        [literal(reason), literal(examples[reason][0]), _text(examples[reason][1]), f"{number:,}"]
        for reason, number in measured.faults.items()
    ]
    head = ["fault", "first of them", "text", "profiles"]
    return f"**{name}**: {count:,} of {measured.subjects:,}.\n\n{table(head, body, text=3)}"


def _side_by_side(comparison: Comparison, id: str) -> str:
    """Return a subject's history and its profiles by the teacher and each stage."""
    history = comparison.held_out.histories.get(id, "").splitlines()
    lines = [line for line in history if line.strip()]
    more = [f"and {len(lines) - HISTORY:,} more"] if len(lines) > HISTORY else []
    parts = [f"### {comparison.held_out.kind.capitalize()} {literal(id)}"]
    parts += ["History:", _bullets([*lines[:HISTORY], *more], LINE)] if lines else []
    writers = {"teacher": comparison.held_out.teacher} if id in comparison.held_out.teacher else {}
    rows = [
        [literal(stage), _text(texts[id]) if id in texts else _NONE]
        for stage, texts in {**writers, **comparison.texts}.items()
    ]
    return "\n\n".join([*parts, table(["", "profile"], rows, text=2)])


def _text(text: str) -> str:
    return literal(text, LONGEST) or "(empty)"


@dataclass(frozen=True, eq=False)
class CardFacts:
    """The content of a model card.

    Attributes:
        model: the base model as reclm names it (``LanguageModel.name``: a name, ``@`` and a hash).
        dataset, fingerprint: of the data set it was tuned on.
        stages: settings by stage, in the order in which they ran.
        teacher: counts of the teacher's profiles that were read and left out, by kind.
        comparisons: quality by stage, of users, of items.
        environment: versions and machine.
        base_model: the base model's name on the hub, where ``model`` does not say it.
        license: an id of the hub; it depends on the terms of base model and teacher.
        limits: further limits, a line each (plain text).
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
        """The base model's name on the hub; None for a local one."""
        name = self.base_model or self.model.partition("@")[0]
        return name if _HUB.fullmatch(name) else None


def write_card(folder: Path, facts: CardFacts) -> Path:
    """Write the model card ``README.md``, in place of PEFT's, as the Hugging Face hub reads it; return its path.

    Text from data cannot act as Markdown in it. Of paths only the last part is written.
    """
    front = ModelCardData(
        base_model=facts.hub_model,
        library_name="peft",
        pipeline_tag="text-generation",
        license=facts.license,
        tags=list(TAGS),
        datasets=[slug(facts.dataset)],
    )
    card = ModelCard(f"---\n{front.to_yaml()}\n---\n\n{_body(facts)}")
    path = folder / CARD
    try:
        card.save(path)
    except OSError as error:
        raise BadInput(f"cannot write {path}: {error.strerror or error}", value=path) from error
    return path


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
        table(["", ""], list(_data(facts)), text=2),
        *_quality(facts),
        *(f"![{literal(Path(one).stem)}]({slug(one)})" for one in facts.pictures),
        "## Limits",
        "\n".join(f"- {literal(line)}" for line in (*LIMITS, *facts.limits)),
        "## Settings",
        *(f"### {literal(stage)}\n\n{_yaml(settings)}" for stage, settings in facts.stages.items()),
        "## Environment",
        _yaml(facts.environment),
    ]
    return "\n\n".join(parts) + "\n"


def _data(facts: CardFacts) -> list[list[str]]:
    rows = [["data set", literal(facts.dataset)], ["fingerprint", literal(facts.fingerprint)]]
    rows.append(["base model", literal(nameless(facts.model))])
    for kind, report in facts.teacher.items():
        rows.append([f"teacher's {literal(kind)} profiles", f"{sum(report.kept.values()):,}"])
        rows += [[f"left out: {literal(reason)}", f"{count:,}"] for reason, count in report.dropped.items()]
    return rows


def _quality(facts: CardFacts) -> list[str]:
    if not facts.comparisons:
        return []
    parts = ["## Quality by stage"]
    for one in facts.comparisons:
        parts += [f"{len(one.held_out.subjects):,} held-out {one.held_out.kind}s:", quality_table(one)]
    return [*parts, "\n".join(f"- {note}" for note in NOTES)]


def _yaml(values: Mapping[str, Any]) -> str:
    return fenced(yaml.safe_dump(nameless(values), sort_keys=False, allow_unicode=True), "yaml")


def nameless(value: Any) -> Any:
    """Return plain values in which a path, also within lists and mappings, is only its last part.

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
