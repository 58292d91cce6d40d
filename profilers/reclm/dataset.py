"""Instruction data on disk: an ordinary folder of Hugging Face ``datasets``, and what a person sees of it."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from reclm.data.dataset import ReadReport, TrainingView
from reclm.errors import ReclmError
from reclm.profilers.reclm.config import InstructionConfig
from reclm.profilers.reclm.instructions import TOO_LONG, Sample

ABOUT = "about.yaml"
_WRITTEN = 1000


def save(
    folder: Path,
    samples: Iterable[Sample],
    view: TrainingView,
    config: InstructionConfig,
    report: ReadReport,
) -> Any:
    """Write samples to a folder as they come, and open it; whole or not at all.

    Columns: ``messages`` (a list of ``role`` and ``content``, TRL's conversational format), ``kind``, ``subject``,
    ``stage``, ``label``, ``item``, ``neighbours`` (see :class:`Sample`). Beside them ``about.yaml`` says what the
    data were made from, how many samples there are, and what was left out and why.

    Args:
        folder: where to; what is there is replaced.
        report: the counts of the samples' maker, complete when the samples are.

    Raises:
        ReclmError: if there is no sample, the folder holds something else, or the disk is full.
    """
    import datasets
    from datasets.arrow_writer import ArrowWriter

    ours = (folder / ABOUT).is_file()
    if folder.exists() and not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise ReclmError(f"{folder} holds something else than instruction data; give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-unfinished-"))
    except OSError as error:
        raise ReclmError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        with ArrowWriter(features=_features(), path=str(fresh / "rows.arrow")) as writer:
            for rows in _batches(samples):
                writer.write_batch(rows)
            count, _ = writer.finalize()
        if not count:
            why = ", ".join(f"{many} {reason}" for reason, many in report.dropped.items())
            remedy = "give profiles of more subjects"
            if any(TOO_LONG in one for one in report.dropped):
                remedy = "raise instructions.max_tokens, or take a model with a longer context window"
            raise ReclmError(
                f"no instruction data from {view.name!r}: {why or 'nobody has a profile'}; {remedy}, or leave the "
                "stage out (--stages)"
            )
        datasets.Dataset.from_file(str(fresh / "rows.arrow")).save_to_disk(str(fresh / "whole"))
        about = {
            "dataset": view.name,
            "fingerprint": view.fingerprint,
            "samples": count,
            "kept": dict(report.kept),
            "dropped": dict(report.dropped),
            "config": config.model_dump(mode="json"),
        }
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        (fresh / "whole" / ABOUT).write_text(text, encoding="utf-8")
        if folder.exists():
            os.replace(folder, fresh / "before")
        os.replace(fresh / "whole", folder)
    except OSError as error:
        raise ReclmError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return load(folder)


def load(folder: Path) -> Any:
    """The ``datasets.Dataset`` that :func:`save` wrote.

    Raises:
        ReclmError: if it is not there.
    """
    import datasets

    if not (folder / ABOUT).is_file():
        raise ReclmError(f"no instruction data at {folder}; name the folder that they were saved to")
    return datasets.load_from_disk(str(folder))


def show(samples: Any, count: int) -> str:
    """``count`` samples, evenly spread over a ``datasets.Dataset`` of messages, as a person reads them."""
    total = len(samples)
    places = [at * total // min(count, total) for at in range(min(count, total))]
    return "\n\n".join(_shown(at, samples[at]) for at in places)


def _shown(at: int, row: dict[str, Any]) -> str:
    facts = [f"{row['stage']}, {row['kind']} {row['subject']}"]
    facts += [f"asked: item {row['item']}, answer {row['label']}"] if row["label"] else []
    facts += [f"similar: {', '.join(row['neighbours'])}"] if row["neighbours"] else []
    head = f"── sample {at}: {'; '.join(facts)}"
    turns = [f"[{one['role']}]\n{one['content']}" for one in row["messages"]]
    return "\n".join([head, *turns])


def _batches(samples: Iterable[Sample]) -> Iterator[dict[str, list[Any]]]:
    samples = iter(samples)
    while some := list(islice(samples, _WRITTEN)):
        yield {
            "messages": [
                [{"role": turn.role, "content": turn.content} for turn in one.messages] for one in some
            ],
            "kind": [one.kind for one in some],
            "subject": [one.subject for one in some],
            "stage": [one.stage for one in some],
            "label": [one.label for one in some],
            "item": [one.item for one in some],
            "neighbours": [list(one.neighbours) for one in some],
        }


def _features() -> Any:
    from datasets import Features, List, Value

    text = Value("string")
    names = ("kind", "subject", "stage", "label", "item")
    return Features(
        {
            "messages": List({"role": text, "content": text}),
            **dict.fromkeys(names, text),
            "neighbours": List(text),
        }
    )
