"""Everything of ours that reads files which others may have written, damaged or sent, with an oracle for each.

An oracle is another reader: the csv and json modules, pyarrow, or what was saved before it was changed.
"""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import reclm
from reclm import plugins
from reclm.config import parse_settings
from reclm.data.dataset import SPLITS, Dataset
from reclm.errors import BadInput

from .harness import Outcome, Target, run_case

USERS, ITEMS = 12, 9
LOG = [
    (f"u{n % USERS}", f"i{(n * 5 + n // 7) % ITEMS}", 1 + n % 5, 1_600_000_000 + 100 * n) for n in range(80)
]
TITLES = {f"i{n}": f"The film, number {n} ({1990 + n})" for n in range(ITEMS)}
NOT_INTERACTIONS = ("described item", "user without", "item without", "item row", "further")


def _csv(rows: Iterable[Iterable[Any]], delimiter: str = ",") -> str:
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return sink.getvalue()


HEADER = ("user_id", "item_id", "rating", "timestamp")
CSV = _csv([HEADER, *LOG])
ITEMS_CSV = _csv([("item_id", "title"), *TITLES.items()])


def reader(name: str, **options: Any) -> Callable[[Path], Dataset]:
    """Return what prepares the folder with that reader, under a name of its own."""
    return lambda folder: reclm.prepare_dataset(name, folder, name="fuzzed", replace=True, **options)


def named_pairs(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for split in SPLITS:
        part = dataset.split(split)
        yield from zip(dataset.users.ids(part.user_idx), dataset.items.ids(part.item_idx), strict=True)


def interactions(dataset: Dataset) -> tuple[int, int]:
    """Return how many interactions were kept, and how many lines and interactions were left out."""
    kept = sum(len(dataset.split(split)) for split in SPLITS)
    left_out = dataset.report.dropped.items()
    return kept, sum(count for why, count in left_out if not why.startswith(NOT_INTERACTIONS))


def same_id(text: str) -> str:
    """Return an id as a table means it: without blanks round it, whole numbers without their point."""
    text = text.strip()
    head, point, tail = text.partition(".")
    return head if point and head.lstrip("-").isdigit() and not tail.strip("0") else text


def compare_pairs(dataset: Dataset, pairs: Iterable[tuple[Any, Any]]) -> None:
    known = {(same_id(str(user)), same_id(str(item))) for user, item in pairs}
    strange = {(same_id(user), same_id(item)) for user, item in named_pairs(dataset)} - known
    assert not strange, f"pairs that no other reader sees: {sorted(strange)[:3]}"


def delimited(name: str, delimiter: str, quoting: bool = True) -> Callable[[Path, Dataset, Any], None]:
    """Return an oracle that counts records, and reads users and items, with the csv module."""

    def judge(folder: Path, dataset: Dataset, sound: Any) -> None:
        data = (folder / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        text = data.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
        quotes = csv.QUOTE_MINIMAL if quoting and '"' in text else csv.QUOTE_NONE
        kept, left_out = interactions(dataset)
        try:
            rows = list(
                csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quotes, strict=True)
            )
        except csv.Error:
            assert left_out, "the csv module refuses a record, and none was left out"
            return
        head, *body = rows
        body = [row for row in body if any(row)]
        assert kept + left_out == len(body), f"{kept} kept + {left_out} left out of {len(body)} records"
        places = [
            next(at for at, field in enumerate(head) if field.strip('"').startswith(side))
            for side in ("user_id", "item_id")
        ]
        compare_pairs(dataset, [(row[places[0]], row[places[1]]) for row in body if len(row) > max(places)])

    return judge


def write_csv(folder: Path) -> None:
    (folder / "interactions.csv").write_text(CSV)
    (folder / "items.csv").write_text(ITEMS_CSV)


def write_tsv(folder: Path) -> None:
    (folder / "interactions.tsv").write_text(_csv([HEADER, *LOG], "\t"))


def write_gzip(folder: Path) -> None:
    (folder / "interactions.csv.gz").write_bytes(gzip.compress(CSV.encode(), mtime=0))


def judge_titles(folder: Path, dataset: Dataset, sound: Any) -> None:
    """Titles are those that the csv module reads for the same id."""
    text = (folder / "items.csv").read_bytes().decode("utf-8-sig", "replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    known = {cell.strip() for row in rows[1:] for cell in row}
    for column in dataset.item_text.columns:
        strange = [value for value in column.to_pylist() if value and value.strip() not in known]
        assert not strange, f"item text that the csv module does not read: {strange[:2]}"


def write_parquet(folder: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in LOG]),
        folder / "interactions.parquet",
    )


def judge_parquet(folder: Path, dataset: Dataset, sound: Any) -> None:
    table = pq.ParquetFile(folder / "interactions.parquet").read(columns=["user_id", "item_id"])
    assert table.column_names == ["user_id", "item_id"], "two columns have the same name"
    kept, left_out = interactions(dataset)
    assert kept + left_out == len(table), f"{kept} kept + {left_out} left out of {len(table)} rows"
    compare_pairs(
        dataset, zip(*(column.cast(pa.string()).to_pylist() for column in table.columns), strict=True)
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


def judge_adjacency(folder: Path, dataset: Dataset, sound: Any) -> None:
    pairs = []
    for name in SPLITS:
        text = (folder / f"{name}.txt").read_bytes().decode("utf-8-sig", "replace").replace("\r", "\n")
        pairs += [
            (line.split()[0], item) for line in text.split("\n") if line.strip() for item in line.split()[1:]
        ]
    compare_pairs(dataset, pairs)


def write_mind(folder: Path) -> None:
    days = [f"11/{14 + n % 2}/2019 {1 + n % 11}:00:00 AM" for n in range(60)]
    days += [f"11/{day}/2019 {hour}" for day in (14, 15) for hour in ("12:05:00 AM", "11:50:00 PM")]
    lines = [f"{n}\tU{n % 6}\t{day}\tN1\tN{n % 5}-1 N{(n + 2) % 7}-{n % 3 % 2}" for n, day in enumerate(days)]
    news = [f"N{n}\tsports\tgolf\tTitle {n}\tAbout {n}.\thttps://x\t[]\t[]" for n in range(7)]
    with zipfile.ZipFile(folder / "mind.zip", "w") as archive:
        archive.writestr("MIND/behaviors.tsv", "\n".join(lines) + "\n")
        archive.writestr("MIND/news.tsv", "\n".join(news) + "\n")


def judge_mind(folder: Path, dataset: Dataset, sound: Any) -> None:
    pairs = []
    with zipfile.ZipFile(folder / "mind.zip") as archive:
        for name in archive.namelist():
            if name.endswith("behaviors.tsv"):
                text = archive.read(name).decode("utf-8-sig", "replace")
                for fields in (line.split("\t") for line in text.replace("\r", "\n").split("\n")):
                    if len(fields) == 5:
                        pairs += [(fields[1], click.rpartition("-")[0]) for click in fields[4].split()]
    compare_pairs(dataset, pairs)


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


def judge_amazon(folder: Path, dataset: Dataset, sound: Any) -> None:
    data = (folder / "Films.jsonl").read_bytes()
    lines = [line for line in data.replace(b"\r", b"\n").split(b"\n") if line.strip()]
    kept, left_out = interactions(dataset)
    of_meta = dataset.report.dropped.get("malformed line", 0)
    assert kept <= len(lines) <= kept + left_out + of_meta, (
        f"{kept} kept + {left_out} left out of {len(lines)} lines"
    )
    pairs = []
    for line in lines:
        try:
            value = json.loads(line.decode("utf-8-sig", "replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            pairs.append((value.get("user_id"), value.get("parent_asin") or value.get("asin")))
    compare_pairs(dataset, pairs)


def write_dataset(folder: Path) -> None:
    write_csv(folder.parent)
    reclm.prepare_dataset("table", folder.parent, name=folder)
    for path in folder.parent.glob("*.csv"):
        path.unlink()


def content(dataset: Dataset) -> dict[str, Any]:
    """Return all that a data set says, for a comparison."""
    parts = {split: dataset.split(split) for split in SPLITS}
    columns = {
        f"{split} {name}": column for split, part in parts.items() for name, column in vars(part).items()
    }
    return {
        "users": dataset.users.ids(),
        "items": dataset.items.ids(),
        "text": dataset.item_text.to_pydict(),
        "template": dataset.text_template,
        "protocols": [(one.name, one.candidates.tolist(), one.mask) for one in dataset.protocols],
        **{name: None if column is None else np.asarray(column).tolist() for name, column in columns.items()},
    }


def equal(folder: Path, value: Any, sound: Any) -> None:
    """What was read is what was saved."""
    if value != sound:
        differ = [key for key in sound if value.get(key) != sound[key]] if isinstance(sound, dict) else []
        raise AssertionError(f"read as something else than was saved: {differ or value!r:.200}")


def write_run(folder: Path) -> None:
    from tests.benchmarks.report.made_runs import made_examples, made_quality, made_result

    made = made_result(users=8, seeds=2, backbones=("LightGCN",))
    from dataclasses import replace

    replace(made, examples=tuple(made_examples(1)), quality=tuple(made_quality())).save(folder)


def read_run(folder: Path) -> dict[str, Any]:
    result = reclm.Result.load(folder)
    return {
        "table": result.table().to_dict(),
        "verdict": str(result.verdict),
        "users": result.per_user().to_dict("list"),
        "markdown": result.to_markdown(),
        "examples": repr(result.examples),
        "quality": repr(result.quality),
    }


def _fitted(folder: Path) -> Any:
    from reclm.testing import checkerboard

    data = checkerboard()
    return reclm.fit("biasmf", data, epochs=1, items="id", dim=4, progress=False)


def write_model(folder: Path) -> None:
    _fitted(folder).save(folder / "model")


def read_model(folder: Path) -> dict[str, Any]:
    model = reclm.load_model(folder / "model")
    return {"top": model.recommend(model.data.users.ids()[0], k=5).to_dict("list")}


STORED = {f"u{n}": f"User identity: film fan {n}; User interests: robots, space." for n in range(5)}


def _stored_dataset() -> Dataset:
    import pandas as pd

    frame = pd.DataFrame(LOG, columns=list(HEADER))
    return reclm.Dataset.from_frames(frame, pd.DataFrame(TITLES.items(), columns=["item_id", "title"]))


def write_store(folder: Path) -> None:
    from reclm.profiles.exchange import import_frames

    import_frames(_stored_dataset(), {"user": STORED}, store=folder / "store")


def read_store(folder: Path) -> dict[str, str]:
    frame = reclm.Profiles.open(folder / "store").texts("user")
    return dict(zip(frame["id"], frame["text"], strict=True))


def judge_store(folder: Path, value: dict[str, str], sound: dict[str, str]) -> None:
    wrong = {id: text for id, text in value.items() if sound.get(id) != text}
    assert not wrong, f"profiles that nobody wrote: {wrong}"


def importing(name: str) -> Callable[[Path], dict[str, str]]:
    def read(folder: Path) -> dict[str, str]:
        from reclm.data.readers.records import read_records

        frame = reclm.Profiles.from_frames(_stored_dataset(), users=read_records(folder / name)).texts("user")
        return dict(zip(frame["id"], frame["text"], strict=True))

    return read


def write_profiles_csv(folder: Path) -> None:
    (folder / "users.csv").write_text(_csv([("id", "text"), *STORED.items()]))


def write_profiles_jsonl(folder: Path) -> None:
    lines = [json.dumps({"id": id, "text": text}) for id, text in STORED.items()]
    (folder / "users.jsonl").write_text("\n".join(lines) + "\n")


def write_profiles_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"id": list(STORED), "text": list(STORED.values())}), folder / "users.parquet")


def judge_profiles_csv(folder: Path, value: dict[str, str], sound: Any) -> None:
    text = (folder / "users.csv").read_bytes().decode("utf-8-sig", "replace")
    rows = csv.reader(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"), newline=""))
    known = {cell.strip() for row in rows for cell in row}
    wrong = {id: text for id, text in value.items() if text.strip() not in known}
    assert not wrong, f"texts that the csv module does not read: {wrong}"


def judge_profiles(folder: Path, value: dict[str, str], sound: Any) -> None:
    assert set(value) <= {f"u{n}" for n in range(USERS)}, "profiles of users that the data set does not have"


SUITE = """\
title: A suite
dataset: ml-100k
seeds: 2
rows:
- name: Base
  backbone: lightgcn
  options: {dim: 8, epochs: 1}
- name: With profiles
  backbone: lightgcn
  profiles: {user: {profiler: keywords}, item: {profiler: keywords}}
  against: [Base]
"""


def write_suite(folder: Path) -> None:
    from reclm.benchmarks.suite import Suite

    source = Path(__file__).parents[2] / "benchmarks" / "suites"
    (folder / "suite.yaml").write_bytes(sorted(source.glob("*.yaml"))[0].read_bytes())
    assert Suite


def read_suite(folder: Path) -> Any:
    from reclm.benchmarks.suite import load_suite

    return load_suite(folder / "suite.yaml")


def accepted(folder: Path, value: Any, sound: Any) -> None:
    """Anything that is accepted may be meant."""


def write_settings(folder: Path) -> None:
    lines = (
        "dim=8",
        "epochs=3",
        "lr=0.01",
        "items=id+text",
        "contrastive.epochs=3",
        "ppo.learning_rate=1e-5",
        "text_columns=title, genre",
    )
    (folder / "settings.txt").write_text("\n".join(lines))


def read_settings(folder: Path) -> Any:
    text = (folder / "settings.txt").read_bytes().decode("utf-8", "replace")
    values = parse_settings(text.split("\n"))
    for plugin in (
        plugins.get("backbone", "lightgcn"),
        plugins.get("profiler", "langptune"),
        plugins.get("dataset", "table"),
    ):
        config = plugin.Config
        known = {key: value for key, value in values.items() if key in config.model_fields}
        config.build(known, where="--set")
    return values


def write_language_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tests.text.tiny import TEMPLATE, tiny_tokenizer

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=400, max_position_embeddings=64, **sizes)).save_pretrained(
        folder / "tiny"
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "tiny")


def read_language_model(folder: Path) -> Any:
    from reclm.llm.chat import Chat, Message, SamplingParams
    from reclm.llm.models import open_generator

    chats = {"a": Chat((Message("user", "hello"),))}
    return [
        answer.text
        for answer in open_generator(str(folder / "tiny"), "transformers").generate(
            chats, SamplingParams(max_new_tokens=1)
        )
    ]


def write_gguf(folder: Path) -> None:
    from tests.text.tiny import write_tiny_gguf

    write_tiny_gguf(folder / "tiny.gguf")


def read_gguf(folder: Path) -> Any:
    from reclm.llm.models import context_length, find_model, load_tokenizer

    model = find_model(str(folder / "tiny.gguf"))
    return len(load_tokenizer(model)), context_length(model)


def write_answer(folder: Path) -> None:
    from tests.fake_server import PROFILE, completion

    (folder / "answer.json").write_text(json.dumps(completion(PROFILE)[1]))


def read_answer(folder: Path) -> Any:
    from reclm.llm.chat import Chat, Message, SamplingParams
    from reclm.llm.engines.server import ServerGenerator
    from tests.fake_server import KEY, fake_server

    body = (folder / "answer.json").read_bytes()
    with fake_server() as server:
        server.reply = lambda request: (200, body, {})
        engine = ServerGenerator("teacher", server.url, KEY, retries=0, timeout=5)
        return [
            answer.text
            for answer in engine.generate({"a": Chat((Message("user", "hello"),))}, SamplingParams())
        ]


def judge_answer(folder: Path, value: Any, sound: Any) -> None:
    (text,) = value
    content = json.loads((folder / "answer.json").read_bytes().decode("utf-8", "replace"))["choices"][0][
        "message"
    ]["content"]
    if isinstance(content, list):  # the parts of an answer
        content = "".join(part if isinstance(part, str) else part.get("text", "") for part in content)
    assert isinstance(content, str), f"an answer {text!r} where the content is {content!r}"
    assert text.strip(), "an empty answer"
    plain = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert text.replace("\ufffd", "?") in plain.replace("\ufffd", "?"), (
        f"{text!r} is not in the answer {content!r}"
    )


DELIMITED = (
    "reclm.data.readers.table",
    "reclm.data.readers.lines",
    "reclm.data.readers.text_file",
    "reclm.data.readers.records",
    "reclm.data.readers.columns",
)

TARGETS = {
    target.name: target
    for target in (
        Target(
            "csv",
            write_csv,
            reader("table"),
            delimited("interactions.csv", ","),
            ("interactions.csv",),
            DELIMITED,
        ),
        Target("tsv", write_tsv, reader("table"), delimited("interactions.tsv", "\t"), modules=DELIMITED),
        Target(
            "csv.gz", write_gzip, reader("table"), delimited("interactions.csv.gz", ","), modules=DELIMITED
        ),
        Target("items.csv", write_csv, reader("table"), judge_titles, ("items.csv",), DELIMITED),
        Target("parquet", write_parquet, reader("table"), judge_parquet, modules=DELIMITED),
        Target("frames", write_parquet, read_frames, judge_parquet, modules=("reclm.data.readers.table",)),
        Target(
            "recbole",
            write_recbole,
            reader("recbole"),
            delimited("tiny.inter", "\t", quoting=False),
            ("tiny.inter",),
            ("reclm.data.readers.recbole",),
        ),
        Target(
            "adjacency",
            write_adjacency,
            reader("adjacency"),
            judge_adjacency,
            modules=("reclm.data.readers.adjacency",),
        ),
        Target(
            "mind",
            write_mind,
            lambda folder: reader("mind")(folder / "mind.zip"),
            judge_mind,
            modules=("reclm.data.readers.mind",),
        ),
        Target(
            "amazon",
            write_amazon,
            reader("amazon", min_user=1, min_item=1),
            judge_amazon,
            ("Films.jsonl",),
            ("reclm.data.readers.amazon", "reclm.data.readers.records"),
        ),
        Target(
            "amazon-meta",
            write_amazon,
            reader("amazon", min_user=1, min_item=1),
            judge_amazon,
            ("meta_Films.jsonl",),
            ("reclm.data.readers.amazon",),
        ),
        Target(
            "dataset",
            write_dataset,
            lambda folder: content(reclm.load_dataset(folder)),
            equal,
            modules=("reclm.data.storage",),
        ),
        Target("run", write_run, read_run, equal, modules=("reclm.benchmarks.result_files",)),
        Target("model", write_model, read_model, equal, modules=("reclm.recommend.saved",)),
        Target("store", write_store, read_store, judge_store, modules=("reclm.profiles.store",)),
        Target(
            "profiles.csv",
            write_profiles_csv,
            importing("users.csv"),
            judge_profiles_csv,
            modules=("reclm.profiles.exchange",),
        ),
        Target(
            "profiles.jsonl",
            write_profiles_jsonl,
            importing("users.jsonl"),
            judge_profiles,
            modules=("reclm.profiles.exchange",),
        ),
        Target(
            "profiles.parquet",
            write_profiles_parquet,
            importing("users.parquet"),
            judge_profiles,
            modules=("reclm.profiles.exchange",),
        ),
        Target(
            "suite", write_suite, read_suite, accepted, modules=("reclm.benchmarks.suite", "reclm.config")
        ),
        Target("settings", write_settings, read_settings, accepted, modules=("reclm.config",)),
        Target(
            "model-folder",
            write_language_model,
            read_language_model,
            accepted,
            modules=("reclm.llm.models", "reclm.llm.engines.transformers"),
        ),
        Target("gguf", write_gguf, read_gguf, accepted, modules=("reclm.llm.models",)),
        Target("answer", write_answer, read_answer, judge_answer, modules=("reclm.llm.engines.server",)),
    )
}


def run(name: str, case: int) -> Outcome:
    """Run a case of the target called ``name``."""
    return run_case(TARGETS[name], case)
