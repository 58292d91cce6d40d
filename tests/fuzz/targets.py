"""Everything of ours that reads files which others may have written, damaged or sent, with an oracle for each.

An oracle is another reader: the csv and json modules, pyarrow, or what was saved before it was changed.
"""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import reclm
from reclm.data.dataset import Dataset
from reclm.errors import BadInput

from . import artefacts, language, oracles, tuned
from .harness import Outcome, Target, run_case
from .oracles import HEADER, LOG, TITLES, delimited, item_table


def _csv(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return sink.getvalue()


CSV = _csv([HEADER, *LOG])
ITEMS_CSV = _csv([("item_id", "title"), *TITLES.items()])


def reader(name: str, **options: Any) -> Callable[[Path], Dataset]:
    """Return what prepares the folder with that reader, under a name of its own."""
    return lambda folder: reclm.prepare_dataset(name, folder, name="fuzzed", replace=True, **options)


def write_csv(folder: Path) -> None:
    (folder / "interactions.csv").write_text(CSV)
    (folder / "items.csv").write_text(ITEMS_CSV)


def write_tsv(folder: Path) -> None:
    (folder / "interactions.tsv").write_text(_csv([HEADER, *LOG], "\t"))


def write_gzip(folder: Path) -> None:
    (folder / "interactions.csv.gz").write_bytes(gzip.compress(CSV.encode(), mtime=0))


def write_parquet(folder: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in LOG]),
        folder / "interactions.parquet",
    )


def read_frames(folder: Path) -> Dataset:
    """Read the table as a frame in memory; a file that pyarrow cannot read is no frame."""
    try:
        frame = pq.ParquetFile(folder / "interactions.parquet").read()
    except (OSError, pa.ArrowException) as error:
        raise BadInput(str(error)) from error
    return reclm.Dataset.from_frames(frame)


def write_recbole(folder: Path) -> None:
    typed = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    (folder / "tiny.inter").write_text("\n".join("\t".join(map(str, row)) for row in [typed, *LOG]) + "\n")
    items = [("item_id:token", "title:token_seq"), *TITLES.items()]
    (folder / "tiny.item").write_text("\n".join("\t".join(row) for row in items) + "\n")


def write_adjacency(folder: Path) -> None:
    for name, start, stop in (("train", 0, 50), ("valid", 50, 60), ("test", 60, 80)):
        lists: dict[str, list[str]] = {}
        for user, item, *_ in LOG[start:stop]:
            lists.setdefault(user[1:], []).append(item[1:])
        (folder / f"{name}.txt").write_text(
            "".join(f"{user} {' '.join(items)}\n" for user, items in lists.items())
        )


def write_mind(folder: Path) -> None:
    days = [f"11/{14 + n % 2}/2019 {1 + n % 11}:00:00 AM" for n in range(60)]
    days += [f"11/{day}/2019 {hour}" for day in (14, 15) for hour in ("12:05:00 AM", "11:50:00 PM")]
    lines = [f"{n}\tU{n % 6}\t{day}\tN1\tN{n % 5}-1 N{(n + 2) % 7}-{n % 3 % 2}" for n, day in enumerate(days)]
    news = [f"N{n}\tsports\tgolf\tTitle {n}\tAbout {n}.\thttps://x\t[]\t[]" for n in range(7)]
    with zipfile.ZipFile(folder / "mind.zip", "w") as archive:
        archive.writestr("MIND/behaviors.tsv", "\n".join(lines) + "\n")
        archive.writestr("MIND/news.tsv", "\n".join(news) + "\n")


def write_amazon(folder: Path) -> None:
    fields = ("user_id", "parent_asin", "rating", "timestamp")
    said = {"title": "Good", "text": "I liked it."}
    rows = [(user, item, float(rating), when * 1000) for user, item, rating, when in LOG]
    reviews = [dict(zip(fields, row, strict=True)) | said for row in rows]
    about = [
        {
            "parent_asin": item,
            "title": title,
            "categories": ["Films"],
            "description": ["A film."],
            "price": 9.5,
        }
        for item, title in TITLES.items()
    ]
    (folder / "Films.jsonl").write_text("\n".join(map(json.dumps, reviews)) + "\n")
    (folder / "meta_Films.jsonl").write_text("\n".join(map(json.dumps, about)) + "\n")


def read_dataset(folder: Path) -> dict[str, Any]:
    return artefacts.content(reclm.load_dataset(folder))


DELIMITED = (
    "reclm.data.readers.table",
    "reclm.data.readers.lines",
    "reclm.data.readers.text_file",
    "reclm.data.readers.records",
    "reclm.data.readers.columns",
)


def _records(name: str) -> tuple[str, ...]:
    return (f"reclm.data.readers.{name}", "reclm.data.readers.lines", "reclm.data.readers.text_file")


STORE = ("reclm.profiles.store", "reclm.profiles.salvage", "reclm.files")
RUN = ("reclm.benchmarks.result_files",)
EXCHANGE = ("reclm.profiles.exchange", "reclm.data.readers.records")
MODELS = ("reclm.llm.models", "reclm.llm.tokens", "reclm.llm.engines.transformers")
CHECKPOINTS = ("reclm.profilers.rl.loop", "reclm.profilers.tuning.checkpoints")
INTERACTIONS = ("interactions.*",)
AMAZON = reader("amazon", min_user=1, min_item=1)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "csv", write_csv, reader("table"), delimited("interactions.csv", ","), INTERACTIONS, DELIMITED
        ),
        Target("tsv", write_tsv, reader("table"), delimited("interactions.tsv", "\t"), modules=DELIMITED),
        Target(
            "csv.gz", write_gzip, reader("table"), delimited("interactions.csv.gz", ","), modules=DELIMITED
        ),
        Target(
            "items.csv", write_csv, reader("table"), item_table("items.csv", ","), ("items.csv",), DELIMITED
        ),
        Target("parquet", write_parquet, reader("table"), oracles.parquet_log, modules=DELIMITED),
        Target("frames", write_parquet, read_frames, oracles.parquet_log, modules=DELIMITED),
        Target(
            "recbole",
            write_recbole,
            reader("recbole"),
            delimited("tiny.inter", "\t", quoting=False),
            ("tiny.inter",),
            _records("recbole"),
        ),
        Target(
            "recbole-items",
            write_recbole,
            reader("recbole"),
            item_table("tiny.item", "\t", typed=True),
            ("tiny.item",),
            _records("recbole"),
        ),
        Target(
            "adjacency",
            write_adjacency,
            reader("adjacency"),
            oracles.adjacency,
            modules=_records("adjacency"),
        ),
        Target(
            "mind",
            write_mind,
            lambda folder: reader("mind")(folder / "mind.zip"),
            oracles.mind,
            modules=_records("mind"),
        ),
        Target("amazon", write_amazon, AMAZON, oracles.amazon, ("Films.jsonl",), _records("amazon")),
        Target(
            "amazon-meta",
            write_amazon,
            AMAZON,
            oracles.amazon_items,
            ("meta_Films.jsonl",),
            _records("amazon"),
        ),
        Target(
            "new-items",
            artefacts.write_new_items,
            artefacts.read_new_items,
            artefacts.judge_new_items,
            modules=("reclm.recommend.serve", "reclm.data.readers.records"),
        ),
        Target(
            "dataset",
            artefacts.write_dataset,
            read_dataset,
            artefacts.equal,
            modules=("reclm.data.storage", "reclm.config"),
        ),
        Target(
            "sessions",
            artefacts.write_sessions,
            read_dataset,
            artefacts.equal,
            modules=("reclm.data.storage", "reclm.data.sessions"),
        ),
        Target("run", artefacts.write_run, artefacts.read_run, artefacts.equal, modules=RUN),
        Target(
            "run-unchecked",
            artefacts.write_plain_run,
            artefacts.read_run,
            artefacts.judge_plain_run,
            modules=(*RUN, "reclm.benchmarks.results"),
        ),
        Target(
            "trial",
            artefacts.write_trial,
            artefacts.read_trial,
            artefacts.judge_trial,
            modules=("reclm.benchmarks.trial",),
        ),
        Target(
            "model",
            artefacts.write_model,
            artefacts.read_model,
            artefacts.equal,
            modules=("reclm.recommend.saved",),
        ),
        Target(
            "model-unchecked",
            artefacts.write_plain_model,
            artefacts.read_model,
            artefacts.judge_plain_model,
            ("model/model.*", "model/inputs.*"),
            ("reclm.recommend.saved",),
        ),
        Target("store", artefacts.write_store, artefacts.read_store, artefacts.judge_store, modules=STORE),
        Target(
            "journal",
            artefacts.write_journal,
            artefacts.read_store,
            artefacts.judge_journal,
            ("store/journal.jsonl",),
            STORE,
        ),
        Target(
            "profiles.csv",
            artefacts.write_profiles_csv,
            artefacts.importing("users.csv"),
            artefacts.judge_profiles_csv,
            modules=EXCHANGE,
        ),
        Target(
            "profiles.jsonl",
            artefacts.write_profiles_jsonl,
            artefacts.importing("users.jsonl"),
            artefacts.judge_profiles_jsonl,
            modules=EXCHANGE,
        ),
        Target(
            "profiles.parquet",
            artefacts.write_profiles_parquet,
            artefacts.importing("users.parquet"),
            artefacts.judge_profiles_parquet,
            modules=EXCHANGE,
        ),
        Target(
            "export",
            artefacts.write_export("parquet"),
            artefacts.read_export,
            artefacts.judge_profiles_parquet,
            ("export/user.parquet",),
            EXCHANGE,
        ),
        Target(
            "manifest",
            artefacts.write_export("parquet"),
            artefacts.write_again,
            artefacts.judge_again,
            ("export/manifest.json",),
            EXCHANGE,
        ),
        Target(
            "suite",
            artefacts.write_suite,
            artefacts.read_suite,
            artefacts.judge_suite,
            modules=("reclm.benchmarks.suite", "reclm.config"),
        ),
        Target(
            "settings",
            artefacts.write_settings,
            artefacts.read_settings,
            artefacts.judge_settings,
            modules=("reclm.config",),
        ),
        Target(
            "curves",
            artefacts.write_curves,
            artefacts.read_curves,
            artefacts.judge_curves,
            modules=("reclm.profilers.tuning.metrics_log",),
        ),
        Target(
            "model-folder",
            language.write_language_model,
            language.read_language_model,
            language.judge_language_model,
            modules=MODELS,
        ),
        Target("gguf", language.write_gguf, language.read_gguf, language.judge_gguf, modules=MODELS[:1]),
        Target(
            "gguf-weights",
            language.write_gguf,
            language.read_gguf_weights,
            language.judge_gguf_weights,
            modules=MODELS[:1],
        ),
        Target(
            "adapter",
            language.write_adapter,
            language.read_adapter,
            language.judge_adapter,
            ("adapter/*",),
            ("reclm.profilers.tuning.adapter",),
        ),
        Target(
            "answer",
            language.write_answer,
            language.read_answer,
            language.judge_answer,
            modules=("reclm.llm.engines.server", "reclm.llm.engines.host"),
        ),
        Target(
            "contrastive",
            tuned.write_contrastive,
            tuned.read_contrastive,
            tuned.judge_checkpoint("encoder.safetensors"),
            modules=CHECKPOINTS,
        ),
        *(
            Target(name, tuned.write_loop(name), tuned.read_loop(name), tuned.judge_loop, modules=CHECKPOINTS)
            for name in ("ppo", "rlso")
        ),
        *(
            Target(
                f"tuned-{name}",
                tuned.write_tuned(name),
                tuned.read_tuned(name),
                tuned.judge_tuned,
                modules=("reclm.profilers.tuning.run_folder", "reclm.config"),
            )
            for name in ("langptune", "reclm")
        ),
        Target(
            "neighbours",
            tuned.write_neighbours,
            tuned.read_neighbours,
            tuned.judge_neighbours,
            modules=("reclm.profilers.reclm.neighbours",),
        ),
    )
}


def run(name: str, case: int) -> Outcome:
    """Run a case of the target called ``name``."""
    return run_case(TARGETS[name], case)
