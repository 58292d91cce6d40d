"""The report of a RecLM tuning: quality by stage as Markdown and on the terminal, and the model card."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from rich import box
from rich.markup import escape
from rich.table import Table

from reclm.config import read_yaml
from reclm.console import fenced, literal, pipe_table, printable
from reclm.files import atomic_file
from reclm.folders import slug
from reclm.intervals import NONE, Estimate, number
from reclm.llm.models import embedded_model
from reclm.plugins import environment
from reclm.profilers.tuning.quality import Comparison, StageQuality

if TYPE_CHECKING:
    from reclm.profilers.reclm.pipeline import RecLMPipeline

CARD = "README.md"
PAPER = "https://arxiv.org/abs/2412.19302"
TAGS = ("reclm", "recommender-systems", "user-profiles", "lora")
_PROSE = read_yaml(Path(__file__).parent / "report.yaml")
_EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The embedded model's name on the hub."""
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PROFILE, _LINE = 400, 160
"""Characters of a profile, and of a line of a history, that are printed: a faulty one may go on for long."""
_HISTORY, _EXAMPLES = 10, 5
"""Lines of a history, and subjects side by side, that are printed."""

_cosine = partial(number, digits=3)
MEASURES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "n": ("subjects", "{:,}".format),
    "in format": ("compliance", "{:.1%}".format),
    "words": ("words", "{:.1f}".format),
    "distinct-1": ("distinct_1", _cosine),
    "distinct-2": ("distinct_2", _cosine),
    "repeated": ("repetition", "{:.1%}".format),
    "teacher": ("teacher", _cosine),
    "another's teacher": ("other_teacher", _cosine),
    "neighbours": ("neighbours", _cosine),
    "strangers": ("strangers", _cosine),
}
"""Column: the field of :class:`StageQuality`, and how it is written."""
NOTES = "\n".join(f"- {note}" for note in _PROSE["notes"])


def _rows(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    """Return for stages, teacher and histories a number and its interval (or "") by measure."""
    measured = [*comparison.quality, *([comparison.teacher] if comparison.teacher else [])]
    rows = {
        stage.stage: [_cell(getattr(stage, name), write) for name, write in MEASURES.values()]
        for stage in measured
    }
    # a history has no stage: take the stage that wrote for most
    with_histories = [stage for stage in comparison.quality if stage.history_neighbours is not None]
    if with_histories:
        most = max(with_histories, key=lambda stage: stage.subjects)
        cosines = (most.history_neighbours, most.history_strangers)
        rows["histories"] = [("", "")] * (len(MEASURES) - 2) + [(_cosine(value), "") for value in cosines]
    return rows


def _cell(value: Estimate | float | None, write: Callable[[Any], str]) -> tuple[str, str]:
    if not isinstance(value, Estimate):
        return (NONE if value is None else write(value)), ""
    if value.low is None:
        return write(value.mean), ""
    return write(value.mean), f"{write(value.low)}–{write(value.high)}".replace("%", "")


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
    rows = _rows(comparison)
    grid.add_column("", no_wrap=True)
    for name in rows:
        grid.add_column(escape(printable(name)), justify="right")
    for measure, *cells in zip(MEASURES, *rows.values(), strict=True):
        grid.add_row(measure, *(mean + f"\n[dim]{interval}[/]" * bool(interval) for mean, interval in cells))
    return grid


def quality_table(comparison: Comparison) -> str:
    """Return the same as a Markdown table, a row a stage; intervals behind their numbers."""
    body = [
        [literal(name), *(mean + f" [{interval}]" * bool(interval) for mean, interval in cells)]
        for name, cells in _rows(comparison).items()
    ]
    return pipe_table(["", *MEASURES], body)


def report_page(comparison: Comparison, title: str, remarks: Sequence[str] = ()) -> str:
    """Return the report, with ``remarks``, as Markdown; texts, ids and names cannot act as Markdown in it."""
    kind = comparison.held_out.kind
    parts = [
        f"# {literal(title)}",
        f"Profiles of {len(comparison.held_out.subjects):,} held-out {kind}s that no stage was tuned on.",
        *([_bullets(remarks)] if remarks else []),
        "## Quality by stage",
        quality_table(comparison),
        NOTES,
        "## Profiles that are not in the format",
        *(_failures(comparison, measured) for measured in comparison.quality),
        "## The same subjects, stage by stage",
        "Evenly spread over those that every stage wrote for.",
        *(_side_by_side(comparison, id) for id in comparison.spread(_EXAMPLES)),
    ]
    return "\n\n".join(parts) + "\n"


def save_report(comparison: Comparison, folder: Path, title: str, remarks: Sequence[str] = ()) -> None:
    """Write ``report.md`` (see :func:`report_page`) and ``report.json``, all numbers of all stages (null: none)."""
    numbers = {
        "title": title,
        "kind": comparison.held_out.kind,
        "subjects": len(comparison.held_out.subjects),
        "stages": [asdict(stage) for stage in comparison.quality],
        "teacher": asdict(comparison.teacher) if comparison.teacher else None,
        "remarks": list(remarks),
    }
    page = report_page(comparison, title, remarks=remarks)
    for name, text in (("report.md", page), ("report.json", json.dumps(numbers, indent=2))):
        with atomic_file(folder / name) as draft:
            draft.write_text(text, encoding="utf-8")


def _bullets(lines: Sequence[str], longest: int | None = None) -> str:
    return "\n".join(f"- {literal(line, longest)}" for line in lines)


def _failures(comparison: Comparison, measured: StageQuality) -> str:
    """Return the counts of a stage's faults of format, with an example of each."""
    name, count = literal(measured.stage), sum(measured.faults.values())
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
    return f"**{name}**: {count:,} of {measured.subjects:,}.\n\n{pipe_table(head, body, text=3)}"


def _side_by_side(comparison: Comparison, id: str) -> str:
    """Return a subject's history and its profiles by the teacher and each stage."""
    held_out = comparison.held_out
    lines = [line for line in held_out.histories.get(id, "").splitlines() if line.strip()]
    more = [f"and {len(lines) - _HISTORY:,} more"] if len(lines) > _HISTORY else []
    parts = [f"### {held_out.kind.capitalize()} {literal(id)}"]
    parts += ["History:", _bullets([*lines[:_HISTORY], *more], _LINE)] if lines else []
    teacher = {"teacher": held_out.teacher} if id in held_out.teacher else {}
    rows = [
        [literal(stage), _text(texts[id]) if id in texts else NONE]
        for stage, texts in {**teacher, **comparison.texts}.items()
    ]
    return "\n\n".join([*parts, pipe_table(["", "profile"], rows, text=2)])


def _text(text: str) -> str:
    return literal(text, _PROFILE) or "(empty)"


def write_card(
    tuning: "RecLMPipeline",
    settings: Mapping[str, Mapping[str, Any]],
    comparisons: Sequence[Comparison] = (),
    remarks: Sequence[str] = (),
    picture: str = "",
) -> Path:
    """Write the model card ``README.md``, in place of PEFT's, as the Hugging Face hub reads it; return its path.

    Text from data cannot act as Markdown in it. Of paths only the last part is written. ``settings`` are those of each
    stage, ``remarks`` further limits, ``picture`` the file of the training curves or "".
    """
    view, path = tuning.view, tuning.folder / CARD
    name = tuning.model.name.partition("@")[0]
    if tuning.model.path == embedded_model():
        name = _EMBEDDED
    front = ModelCardData(
        base_model=name if _HUB.fullmatch(name) else None,
        library_name="peft",
        pipeline_tag="text-generation",
        license="unknown",
        tags=list(TAGS),
        datasets=[slug(view.name)],
    )
    model, dataset = literal(nameless(tuning.model.name)), shlex.quote(" ".join(view.name.split()))
    data = [
        ["data set", literal(view.name)],
        ["fingerprint", literal(view.fingerprint)],
        ["base model", model],
    ]
    for kind, teacher in tuning.teachers.items():
        report = teacher.report
        data.append([f"teacher's {literal(kind)} profiles", f"{sum(report.counts.values()):,}"])
        data += [[f"left out: {literal(reason)}", f"{count:,}"] for reason, count in report.dropped.items()]
    parts = [
        f"# RecLM profiler: {model} on {literal(view.name)}",
        f"A LoRA adapter that writes user and item profiles for recommenders, tuned as in [RecLM]({PAPER}).",
        "## Use",
        fenced(f"reclm profile --profiler DIR --dataset {dataset}", "bash"),
        "`DIR` is this folder. The base model is the one that it was tuned from.",
        "## Training data",
        pipe_table(["", ""], data, text=2),
    ]
    parts += ["## Quality by stage"] if comparisons else []
    for comparison in comparisons:
        held_out = comparison.held_out
        parts += [f"{len(held_out.subjects):,} held-out {held_out.kind}s:", quality_table(comparison)]
    parts += [NOTES] if comparisons else []
    parts += [f"![curves]({picture})"] if picture else []
    parts += ["## Limits", _bullets([*_PROSE["limits"], *remarks]), "## Settings"]
    parts += [f"### {literal(stage)}\n\n{_yaml(values)}" for stage, values in settings.items()]
    text = "\n\n".join([*parts, "## Environment", _yaml(environment())]) + "\n"
    with atomic_file(path) as draft:
        ModelCard(f"---\n{front.to_yaml()}\n---\n\n{text}").save(draft)
    return path


def _yaml(values: Mapping[str, Any]) -> str:
    return fenced(yaml.safe_dump(nameless(values), sort_keys=False, allow_unicode=True), "yaml")


def nameless(value: Any) -> Any:
    """Return plain values in which a path, also within lists and mappings, is only its last part.

    >>> nameless({"file": "/home/ann/teacher.csv", "lr": 1e-4})
    {'file': 'teacher.csv', 'lr': 0.0001}
    """
    if isinstance(value, Mapping):
        return {str(name): nameless(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [nameless(part) for part in value]
    if value is None or type(value) in (bool, int, float):
        return value
    text = str(value)
    if isinstance(value, Path) or text.startswith(("/", "./", "../", "~")):
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if PureWindowsPath(text).is_absolute() else text
