"""Targets that we write ourselves: data sets, runs, models, stores, caches; and the files of options."""

import csv
import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import reclm
from reclm import plugins
from reclm.config import NOT_YAML, parse_settings
from reclm.data.dataset import SPLITS, Dataset

from .oracles import HEADER, LOG, TITLES, USERS, csv_rows, names_of, objects


def write_dataset(folder: Path) -> None:
    reclm.prepare_dataset("table", _raw(folder.parent / "raw"), name=folder)


def _raw(folder: Path) -> Path:
    folder.mkdir()
    pd.DataFrame(LOG, columns=list(HEADER)).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame(TITLES.items(), columns=["item_id", "title"]).to_csv(folder / "items.csv", index=False)
    return folder


def write_sessions(folder: Path) -> None:
    stored_dataset(split="sessions", history=2, min_user=3, min_item=1, valid=0.2, test=0.2).save(folder)


def content(dataset: Dataset) -> dict[str, Any]:
    """Return all that a data set says, for a comparison."""
    parts = {split: dataset.split(split) for split in SPLITS}
    columns = {
        f"{split} {name}": column for split, part in parts.items() for name, column in vars(part).items()
    }
    sessions = dataset.sessions
    return {
        "users": dataset.users.ids(),
        "items": dataset.items.ids(),
        "text": dataset.item_text.to_pydict(),
        "template": dataset.text_template,
        "protocols": [(one.name, one.candidates.tolist(), one.mask) for one in dataset.protocols],
        "sessions": None if sessions is None else repr([np.asarray(one) for one in vars(sessions).values()]),
        **{name: None if column is None else np.asarray(column).tolist() for name, column in columns.items()},
    }


def equal(folder: Path, value: Any, sound: Any) -> None:
    """What was read is what was saved."""
    if repr(value) != repr(sound):  # nan is not nan
        differ = [key for key in sound if repr(value.get(key)) != repr(sound[key])]
        raise AssertionError(f"read as something else than was saved: {differ or value!r:.200}")


def accepted(folder: Path, value: Any, sound: Any) -> None:
    """Anything that is accepted may be meant."""


def write_run(folder: Path) -> None:
    from tests.benchmarks.report.made_runs import made_check, made_examples, made_quality, made_result

    made = made_result(users=8, seeds=2, backbones=("LightGCN",))
    extras = {"examples": tuple(made_examples(1)), "quality": tuple(made_quality()), "data": made_check()}
    replace(made, **extras).save(folder)


def write_plain_run(folder: Path) -> None:
    """Write a run of an earlier version, which has no checksums: everything in it may be changed."""
    write_run(folder)
    (folder / "checksums.json").unlink()


def read_run(folder: Path) -> dict[str, Any]:
    result = reclm.Result.load(folder)
    return {
        "table": result.table().to_dict(),
        "verdict": str(result.verdict),
        "users": result.per_user().to_dict("list"),
        "markdown": result.to_markdown(),
        "examples": repr(result.examples),
        "quality": repr(result.quality),
        "data": repr(result.data),
    }


def judge_plain_run(folder: Path, value: dict[str, Any], sound: Any) -> None:
    """The users of each row, seed and protocol are those that pyarrow reads."""
    table = pq.read_table(folder / "users.parquet").to_pandas()
    key = ["row", "seed", "protocol", "user_id"]
    read = pd.DataFrame(value["users"])
    assert len(read) == len(table), f"{len(read)} values of users where the file has {len(table)}"
    found, wanted = ({tuple(map(str, one)) for one in frame[key].to_numpy()} for frame in (read, table))
    assert found == wanted, f"other users than the file has: {sorted(found ^ wanted)[:3]}"


def write_trial(folder: Path) -> None:
    from reclm.benchmarks.trial import TrialCache, TrialRecord

    record = TrialRecord(definition={"dim": 8}, run="r", means={"full-shot": {"ndcg@20": 0.5}}, seconds=1.0)
    users = pa.table({"protocol": ["full-shot"] * 3, "user_id": ["a", "b", "c"], "ndcg@20": [0.5, 0.5, 0.5]})
    TrialCache(folder).put("key", record, users, None)


def read_trial(folder: Path) -> Any:
    from reclm.benchmarks.trial import TrialCache

    cache = TrialCache(folder)
    record = cache.get("key")
    return None if record is None else (record.model_dump(mode="json"), cache.users("key").to_pylist())


def judge_trial(folder: Path, value: Any, sound: Any) -> None:
    if value is not None:
        record, users = value
        wanted = json.loads((folder / "key" / "trial.json").read_bytes())
        judge_options(wanted, record)
        assert repr(users) == repr(pq.read_table(folder / "key" / "users.parquet").to_pylist())


def _fitted() -> Any:
    from reclm.testing import checkerboard

    return reclm.fit("biasmf", checkerboard(), epochs=1, items="id", dim=4, progress=False)


def write_model(folder: Path) -> None:
    _fitted().save(folder / "model")


def write_plain_model(folder: Path) -> None:
    """Write a model of an earlier version, without checksums: its weights may be changed."""
    write_model(folder)
    (folder / "model" / "checksums.json").unlink()


def read_model(folder: Path) -> dict[str, Any]:
    model = reclm.load_model(folder / "model")
    weights = {name: tensor.tolist() for name, tensor in model.model.state_dict().items()}
    return {"top": model.recommend(model.data.users.ids()[0], k=5).to_dict("list"), "weights": weights}


def judge_plain_model(folder: Path, value: dict[str, Any], sound: dict[str, Any]) -> None:
    """The weights are those in the file, read by hand; all else is as it was saved, where they are."""
    data = (folder / "model" / "model.safetensors").read_bytes()
    wanted = {name: tensor.tolist() for name, tensor in tensors_of(data).items()}
    changed = [name for name in wanted if repr(value["weights"].get(name)) != repr(wanted[name])]
    assert not changed, f"other weights than the file has: {changed}"
    if repr(value["weights"]) == repr(sound["weights"]):
        assert repr(value["top"]) == repr(sound["top"]), "the same weights recommend something else"


def tensors_of(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file in float32, float16 or integers, by name."""
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    kinds = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "F64": "<f8", "BOOL": "?", "I32": "<i4"}
    return {
        name: np.frombuffer(
            data[8 + size :][slice(*about["data_offsets"])], dtype=kinds[about["dtype"]]
        ).reshape(about["shape"])
        for name, about in head.items()
        if name != "__metadata__"
    }


STORED = {f"u{n}": f"User identity: film fan {n}; User interests: robots, space." for n in range(5)}


def stored_dataset(**options: Any) -> Dataset:
    frame = pd.DataFrame(LOG, columns=list(HEADER))
    items = pd.DataFrame(TITLES.items(), columns=["item_id", "title"])
    return reclm.Dataset.from_frames(frame, items, **options)


def write_store(folder: Path) -> None:
    from reclm.profiles.exchange import import_frames

    import_frames(stored_dataset(), {"user": STORED}, store=folder / "store")


def write_journal(folder: Path) -> None:
    """Write a store of which some rows are in the journal, as a process that was killed leaves it."""
    from reclm.profiles.profile import Profile
    from reclm.profiles.store import ProfileStore

    write_store(folder)
    store = ProfileStore.read(folder / "store")
    store.add(
        Profile("user", f"u{n}", f"User identity: late {n}.", f"hash {n}", "m", "{}") for n in (5, 6, 7)
    )
    store.lock.release()


def read_store(folder: Path) -> tuple[dict[str, str], bool]:
    """Return the texts by id, and whether a warning says that something is damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = reclm.Profiles.open(folder / "store").texts("user")
    texts = dict(zip(frame["id"], frame["text"], strict=True))
    return texts, any("damaged" in str(warning.message) for warning in caught)


def judge_store(folder: Path, value: tuple[dict[str, str], bool], sound: tuple[dict[str, str], bool]) -> None:
    wrong = {id: text for id, text in value[0].items() if sound[0].get(id) != text}
    assert not wrong, f"profiles that nobody wrote: {wrong}"
    lost = sorted(sound[0].keys() - value[0].keys())
    assert value[1] or not lost, f"profiles are lost without a word: {lost}"


def judge_journal(folder: Path, value: tuple[dict[str, str], bool], sound: Any) -> None:
    """The rows of the journal are those that the json module reads, the last of each user."""
    known = dict(STORED)
    path, bad = folder / "store" / "journal.jsonl", 0
    data = path.read_bytes() if path.is_file() else b""
    # its writer ends lines with a line feed alone, and a carriage return is a blank in JSON
    for row in objects(data, "surrogatepass", returns=False):
        kind, id, text = ((row or {}).get(name) for name in ("kind", "id", "text"))
        if kind in ("user", "item") and isinstance(id, str) and isinstance(text, str) and text.strip():
            id, text = (
                one.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for one in (id, text)
            )
            known |= {id: text} if kind == "user" else {}
        else:
            bad += 1
    assert value[0] == known, f"other profiles than the file has: {value[0].items() ^ known.items()}"
    cut = bool(data) and data[-1:] != b"\n"
    assert value[1] or bad <= cut, f"{bad} damaged lines without a word"


def write_curves(folder: Path) -> None:
    lines = [json.dumps({"step": step, "loss": 1 / (1 + step), "kl": 0.1 * step}) for step in range(12)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def read_curves(folder: Path) -> dict[str, dict[int, float]]:
    from reclm.profilers.tuning.metrics_log import read_metrics

    curves = read_metrics(folder)
    return {
        name: dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
        for name, curve in curves.items()
    }


def judge_curves(folder: Path, value: dict[str, dict[int, float]], sound: Any) -> None:
    """Each finite number of a line that the json module reads is there, the last of each step."""
    wanted: dict[str, dict[int, float]] = {}
    for row in filter(None, objects((folder / "metrics.jsonl").read_bytes(), "surrogatepass")):
        for name, number in row.items():
            if name != "step" and type(number) in (int, float) and np.isfinite(float(number)):
                wanted.setdefault(name, {})[row["step"]] = float(number)
    assert value == wanted, "other curves than the json module reads"


def write_export(form: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        profiles = reclm.Profiles.from_frames(stored_dataset(), users=STORED)
        profiles.export(folder / "export", form)

    return write


def read_export(folder: Path) -> dict[str, str]:
    """Read the table of an export back, as profiles that somebody brings."""
    return importing("export/user.parquet")(folder)


def write_again(folder: Path) -> list[str]:
    """Export over an export; return the files that are not ours, which must stay."""
    profiles = reclm.Profiles.from_frames(stored_dataset(), users=STORED)
    (folder / "export" / "notes.txt").write_text("mine")
    (folder / "precious.txt").write_text("mine")
    profiles.export(folder / "export", "parquet")
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def judge_again(folder: Path, value: list[str], sound: list[str]) -> None:
    missing = {"notes.txt", "precious.txt", "user.parquet", "manifest.json"} - {*value}
    assert not missing, f"files are gone: {missing}"
    manifest = json.loads((folder / "export" / "manifest.json").read_bytes())
    assert manifest["profiles"] == {"user": len(STORED)}


def importing(name: str) -> Callable[[Path], dict[str, str]]:
    def read(folder: Path) -> dict[str, str]:
        from reclm.data.readers.records import read_records

        frame = reclm.Profiles.from_frames(stored_dataset(), users=read_records(folder / name)).texts("user")
        return dict(zip(frame["id"], frame["text"], strict=True))

    return read


def write_profiles_csv(folder: Path) -> None:
    with (folder / "users.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "text"), *STORED.items()])


def write_profiles_jsonl(folder: Path) -> None:
    lines = [json.dumps({"id": id, "text": text}) for id, text in STORED.items()]
    (folder / "users.jsonl").write_text("\n".join(lines) + "\n")


def write_profiles_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"id": list(STORED), "text": list(STORED.values())}), folder / "users.parquet")


def _compare_profiles(value: dict[str, str], pairs: list[tuple[Any, Any]]) -> None:
    """Assert that the profiles are those of ``pairs``, as far as these are texts of known users."""
    users = {f"u{n}" for n in range(USERS)}
    wanted = {
        id: text.strip()
        for id, text in pairs
        if isinstance(id, str)
        and id in users
        and isinstance(text, str)
        and text.strip()
        and text.isprintable()
    }
    lost = {id: text for id, text in wanted.items() if value.get(id) != text}
    assert not lost, f"profiles that another reader sees are lost or changed: {lost}"
    # lists are joined by commas
    others = value.keys() - {", ".join(map(str, id)) if isinstance(id, list) else str(id) for id, _ in pairs}
    assert not others, f"profiles of users that the file does not have: {others}"


def judge_profiles_csv(folder: Path, value: dict[str, str], sound: Any) -> None:
    head, *rows = csv_rows((folder / "users.csv").read_bytes())
    head = names_of(head)
    assert all(len(row) == len(head) for row in rows), "a record with too few or too many fields was read"
    ids = head.index("id") if "id" in head else head.index("user_id") if "user_id" in head else None
    if ids is not None:
        _compare_profiles(value, [(row[ids], row[head.index("text")]) for row in rows])
    known = {cell.strip() for row in rows for cell in row}
    assert {*value.values()} <= known, "texts that the csv module does not read"


def judge_profiles_jsonl(folder: Path, value: dict[str, str], sound: Any) -> None:
    rows = objects((folder / "users.jsonl").read_bytes())
    assert None not in rows, "a line that is no JSON was read"
    if any("id" in row for row in filter(None, rows)):
        _compare_profiles(value, [(row.get("id"), row.get("text")) for row in filter(None, rows)])


def judge_profiles_parquet(folder: Path, value: dict[str, str], sound: Any) -> None:
    path = next(folder.glob("**/user*.parquet"))
    table = pq.ParquetFile(path).read()
    if "id" in table.column_names:
        _compare_profiles(value, [*zip(*(table[name].to_pylist() for name in ("id", "text")), strict=True)])


def write_new_items(folder: Path) -> None:
    lines = [f"n{n},New film {n}" for n in range(6)]
    (folder / "new.csv").write_text("\n".join(["item_id,title", *lines]) + "\n")


def read_new_items(folder: Path) -> dict[str, str]:
    from reclm.recommend.serve import NewItems

    items = NewItems.read(folder / "new.csv", stored_dataset())
    return dict(zip(items.ids.ids(), items.texts("{title}"), strict=True))


def judge_new_items(folder: Path, value: dict[str, str], sound: Any) -> None:
    head, *rows = csv_rows((folder / "new.csv").read_bytes())
    assert len(value) == len(rows), f"{len(value)} of {len(rows)} items are read"
    ids, titles = names_of(head).index("item_id"), names_of(head).index("title")
    for row in rows:
        text = " ".join(row[titles].split()).lstrip(" .,;:")
        wanted = value.get(row[ids].strip(), value.get(row[ids]))
        assert wanted == text or "<" in text or "&" in text, f"{row} is read as {wanted!r}"


def write_suite(folder: Path) -> None:
    source = Path(__file__).parents[2] / "benchmarks" / "suites"
    (folder / "suite.yaml").write_bytes(sorted(source.glob("*.yaml"))[0].read_bytes())


def read_suite(folder: Path) -> Any:
    from reclm.benchmarks.suite import load_suite

    return load_suite(folder / "suite.yaml").model_dump(mode="json")


def judge_suite(folder: Path, value: Any, sound: Any) -> None:
    """Every option of the file is an option of the suite, with its value."""
    wanted = yaml.safe_load((folder / "suite.yaml").read_bytes())
    for row in wanted["rows"]:  # options of all rows' profiles are those of each
        row["against"] = [row["against"]] if isinstance(row.get("against"), str) else row.get("against")
    judge_options({key: part for key, part in wanted.items() if key != "profiles"}, value)


def judge_options(wanted: Any, value: Any, path: str = "") -> None:
    """Assert that each value of a file of options is that of what was read of it, strings read as what they say."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        for key, part in wanted.items():
            assert str(key) in {*map(str, value)}, f"{path}.{key} is lost"
            judge_options(
                part, next(one for name, one in value.items() if str(name) == str(key)), f"{path}.{key}"
            )
    elif isinstance(wanted, list) and isinstance(value, list):
        assert len(wanted) == len(value), f"{path}: {len(value)} of {len(wanted)} values"
        for at, (part, one) in enumerate(zip(wanted, value, strict=True)):
            judge_options(part, one, f"{path}.{at}")
    elif wanted != value and repr(wanted) != repr(value):
        wanted = wanted.decode("utf-8", "replace") if isinstance(wanted, bytes) else wanted
        same = False
        for kind in (str, float):
            try:
                same |= repr(kind(wanted)) == repr(kind(value))
            except (TypeError, ValueError, OverflowError):
                continue
        truth = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True}
        same |= type(value) is bool and truth.get(str(wanted).lower(), str(wanted) == "1") == value
        assert same, f"{path} is {value!r:.100}, and {wanted!r:.100} in the file"


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
    readers: tuple[tuple[plugins.Kind, str], ...] = (
        ("backbone", "lightgcn"),
        ("profiler", "langptune"),
        ("dataset", "table"),
    )
    for kind, name in readers:
        config = plugins.get(kind, name).Config
        known = {key: value for key, value in values.items() if key in config.model_fields}
        config.build(known, where="--set")
    return values


def judge_settings(folder: Path, value: Any, sound: Any) -> None:
    """Each setting is in its place, as YAML or as the text that stands there; the last of a name counts."""
    text = (folder / "settings.txt").read_bytes().decode("utf-8", "replace")
    settings = dict(line.split("=", 1) for line in text.split("\n"))
    settings = {key.strip(): said for key, said in settings.items()}
    for key, said in settings.items():
        place = value
        for part in key.split("."):
            place = place[part]
        try:
            wanted = yaml.safe_load(said)
        except NOT_YAML:
            wanted = said
        if not isinstance(place, dict):
            assert repr(place) in (repr(wanted), repr(said)), f"{key} = {said!r} is read as {place!r}"
