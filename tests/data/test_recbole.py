"""RecBole's atomic files and ml-100k."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reclm.data.dataset import Dataset, Interactions, Protocol
from reclm.data.id_map import IdMap
from reclm.data.readers import recbole
from reclm.data.readers.recbole import Ml100k, RecBole, find_stem, titles_turned, write_atomic
from reclm.errors import BadInput, NotFound, ReclmError
from reclm.text.item_text import item_texts

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\ttitle:token_seq\tyear:token\tvector:float_seq\tprice:float\n"


def make_log(folder: Path, lines: str, name: str = "tiny") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.inter").write_text(INTER + lines)
    return folder


def triples(dataset: Dataset, split: str) -> list[tuple[str, str]]:
    part: Interactions = getattr(dataset, split)
    return list(zip(dataset.users.ids(part.user_idx), dataset.items.ids(part.item_idx), strict=True))


def read(source: Path, strict: bool = False, **options: object) -> Dataset:
    return RecBole().read(source, RecBole.Config.build(options), strict=strict)


LOG = "u\ta\t5\t10\nu\tb\t1\t30\nu\tc\t4\t20\nv\ta\t3\t1\nv\tc\t2\t2.9\n"


def test_a_log_is_split_by_time(tmp_path):
    folder = make_log(tmp_path / "x", LOG)
    (folder / "tiny.item").write_text(ITEM + "c\tSea\t1999\t0.1 0.2\t5\na\tAir  2\t\t0.3 0.4\t6\n")
    dataset = read(folder, held_out_items=0)
    # u, oldest first: a, c, b; v: a, c
    assert triples(dataset, "train") == [("u", "a"), ("v", "a")]
    assert triples(dataset, "valid") == [("u", "c")]
    assert triples(dataset, "test") == [("u", "b"), ("v", "c")]
    assert dataset.test.timestamp.tolist() == [30, 2]
    assert dataset.test.rating.tolist() == [1.0, 2.0]
    assert dataset.item_text.to_pydict() == {"title": ["Air  2", "", "Sea"], "year": ["", "", "1999"]}
    assert dataset.report.counts["items without any text"] == 1
    assert [one.name for one in dataset.protocols] == ["full-shot"]


def test_held_out_items_are_never_trained_on(tmp_path):
    lines = "".join(f"u{u}\ti{i}\t3\t{u * 7 % 10 + i}\n" for u in range(8) for i in range(10))
    dataset = read(make_log(tmp_path / "x", lines), held_out_items=0.2, seed=5)
    cold = set(dataset.items.ids(dataset.protocol("zero-shot").candidates))
    assert len(cold) == 2
    assert not cold & {item for split in ("train", "valid") for _, item in triples(dataset, split)}
    assert sum(item in cold for _, item in triples(dataset, "test")) == 16
    assert set(dataset.items.ids(dataset.protocol("full-shot").candidates)) == set(dataset.items.ids()) - cold
    # of the 8 items left to a user, max(1, ⌊.8⌋) = 1 each is tested on and validates
    assert [len(dataset.split(split)) for split in ("train", "valid", "test")] == [48, 8, 24]
    assert read(tmp_path / "x", held_out_items=0.2, seed=5).fingerprint == dataset.fingerprint
    assert read(tmp_path / "x", held_out_items=0.2, seed=6).fingerprint != dataset.fingerprint


def test_what_is_dropped_is_counted(tmp_path):
    lines = LOG + "u\ta\t5\t99\nw\tb\t1\t5\nx\t\t1\t5\ny\tb\tgood\t5\nz\tb\t3\tnan\n"
    dataset = read(make_log(tmp_path / "x", lines), held_out_items=0, min_rating=2)
    assert dataset.report.dropped == {
        "malformed line": 3,  # no item, a rating that is no number, a time that is none
        "rated below 2": 2,
        "repeated interaction": 1,
        "user without interactions left": 1,  # w
        "item without interactions left": 1,  # b
    }
    assert dataset.report.malformed[0].endswith("tiny.inter:9: x\\t\\t1\\t5 (no item_id)")
    assert dataset.users.ids() == ["u", "v"]
    with pytest.raises(BadInput, match=r"tiny\.inter:9: "):
        read(tmp_path / "x", strict=True)
    with pytest.raises(BadInput, match="no interactions are left to train on"):
        read(tmp_path / "x", min_user=4)


def test_a_user_with_only_held_out_items_is_dropped(tmp_path):
    lines = LOG + "w\tonly\t5\t1\n"
    for seed in range(20):
        dataset = read(make_log(tmp_path / "x", lines), held_out_items=0.25, seed=seed)
        assert set(dataset.users.ids(np.unique(dataset.train.user_idx))) == set(dataset.users.ids())
        if "w" not in dataset.users.ids():
            assert dataset.report.dropped["of a user without training interactions"] >= 1
            return
    pytest.fail("no seed of twenty held out the item")


def test_without_timestamps_and_ratings(tmp_path):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "tiny.inter").write_text("uid:token\tiid:token\nu\ta\nu\tb\n")
    dataset = read(folder / "tiny.inter", user_field="uid", item_field="iid", held_out_items=0)
    assert (len(dataset.train), len(dataset.test)) == (1, 1)
    assert dataset.train.timestamp is None
    assert dataset.train.rating is None
    with pytest.raises(NotFound, match=r"unknown column of .* 'when'.*known: iid, uid"):
        read(folder, user_field="uid", item_field="iid", time_field="when")


def test_written_files_are_read_back(tmp_path):
    users, items = IdMap(["u9", "u1", "quiet"], "user"), IdMap(["b", "a", "c", "d"], "item")
    dataset = Dataset(
        "tiny",
        users,
        items,
        Interactions(
            np.array([0, 1, 0]), np.array([1, 1, 0]), np.array([2**31, 5, 6]), np.array([0.1, 3, 4])
        ),
        Interactions(np.array([1]), np.array([0]), np.array([7]), np.array([2.5])),
        Interactions(np.array([0, 1]), np.array([2, 2]), np.array([8, 9]), np.array([1, 1])),
        pa.table({"title": ['a "quoted"\ttitle', "é", "", "x"], "year": ["1", "", "", "4"]}),
        (Protocol("full-shot", np.arange(4)),),
    )
    write_atomic(dataset, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "out.item", "out.test.inter", "out.train.inter", "out.user", "out.valid.inter",
    ]  # fmt: skip
    assert (tmp_path / "out" / "out.train.inter").read_text().splitlines()[:2] == [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        "u9\ta\t0.1\t2147483648",
    ]
    again = read(tmp_path / "out", strict=True)
    assert again.users.ids() == users.ids()
    assert again.items.ids() == items.ids()
    for split in ("train", "valid", "test"):
        for column in ("user_idx", "item_idx", "timestamp", "rating"):
            assert np.array_equal(getattr(again.split(split), column), getattr(dataset.split(split), column))
    assert again.item_text["title"].to_pylist() == ["a 'quoted' title", "é", "", "x"]
    # "c" and "d" are in neither train nor valid, "c" is tested on
    assert again.items.ids(again.protocol("zero-shot").candidates) == ["c", "d"]
    assert len(again.protocol("full-shot").candidates) == 4
    write_atomic(dataset, tmp_path / "out")  # the same again
    (tmp_path / "out" / "out.user").write_text("mine")
    with pytest.raises(BadInput) as error:
        write_atomic(dataset, tmp_path / "out")
    assert error.value.value == tmp_path / "out"
    assert (tmp_path / "out" / "out.user").read_text() == "mine"


def small_dataset(user="u"):
    interactions = Interactions(np.array([0]), np.array([0]))
    return Dataset(
        "x", IdMap([user], "user"), IdMap(["i"], "item"), interactions, interactions, interactions,
        pa.table({"title": ["x"]}), (),
    )  # fmt: skip


def test_atomic_files_appear_all_together(tmp_path, monkeypatch):
    dataset, written = small_dataset(), []
    real = pa.csv.write_csv

    def killed(*given):
        if written:
            raise KeyboardInterrupt
        written.append(real(*given))

    with monkeypatch.context() as patched:
        patched.setattr(pa.csv, "write_csv", killed)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(dataset, tmp_path / "out")
    assert written
    assert list(tmp_path.iterdir()) == []
    write_atomic(dataset, tmp_path / "out")
    assert len(read(tmp_path / "out", strict=True).train) == 1


def test_an_id_that_would_break_the_file_is_refused(tmp_path):
    dataset = small_dataset("a\tb")
    with pytest.raises(BadInput, match=r"user id 'a\\tb'"):
        write_atomic(dataset, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no \.inter file"),
        ({"a.inter": INTER, "b.inter": INTER}, "holds the data sets a, b; choose one with --set dataset=a"),
        ({"a.train.inter": INTER + "u\ti\t1\t1\n"}, r"has no a\.test\.inter beside it"),
        ({"a.inter": ""}, r"a\.inter is empty"),
        ({"a.inter": "user_id\titem_id\n"}, r"a\.inter:1: column 'user_id' has no type"),
        ({"a.inter": "x:token\tx:token\n"}, "two columns are called 'x'"),
        ({"a.inter": "user:token\titem_id:token\n"}, "unknown column of .*'user_id'; did you mean 'user'"),
        ({"a.inter": INTER}, "no interactions are left"),
        ({"a.inter": INTER + LOG, "a.item": "id:token\nx\n"}, r"unknown column of .*a\.item 'item_id'"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ReclmError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_data_set_is_chosen_by_name(tmp_path):
    make_log(tmp_path, LOG, "one")
    make_log(tmp_path, LOG, "one.two")
    (tmp_path / "three.train.inter").touch()
    assert find_stem(tmp_path, "one.two") == tmp_path / "one.two"
    assert find_stem(tmp_path, "three") == tmp_path / "three"
    with pytest.raises(BadInput, match=r"one, one\.two, three"):
        find_stem(tmp_path, "four")


def test_titles_are_turned_round():
    turned = {
        "Usual Suspects, The": "The Usual Suspects",
        "Seventh Seal, The (Sjunde inseglet, Det)": "The Seventh Seal (Det Sjunde inseglet)",
        "Good, The Bad and The Ugly, The": "The Good, The Bad and The Ugly",
        "American in Paris, An": "An American in Paris",
        "Avventura, L' (Adventure, The)": "L'Avventura (The Adventure)",
        "Postino, Il": "Il Postino",
        "Steal Big, Steal Little": "Steal Big, Steal Little",
        "Cry, the Beloved Country": "Cry, the Beloved Country",
        "Toy Story": "Toy Story",
    }
    assert titles_turned(pa.chunked_array([list(turned)])).to_pylist() == list(turned.values())


def test_ml_100k_as_recbole_ships_it():
    pytest.importorskip("recbole", reason="ml-100k lies in RecBole's wheel", exc_type=ImportError)
    dataset = Ml100k().read(None, Ml100k.Config(), strict=True)
    assert (len(dataset.users), len(dataset.items)) == (943, 1682)
    assert sum(len(dataset.split(split)) for split in ("train", "valid", "test")) == 100_000
    cold = dataset.protocol("zero-shot").candidates
    assert len(cold) == 168  # round(.1 · 1,682)
    assert not np.isin(dataset.joined(["train", "valid"]).item_idx, cold).any()
    assert np.array_equal(
        np.sort(np.concatenate([cold, dataset.protocol("full-shot").candidates])), np.arange(1682)
    )
    warm = ~np.isin(dataset.test.item_idx, cold)
    tested = dataset.test.take(warm)
    assert dataset.train.timestamp is not None
    assert tested.timestamp is not None
    newest = np.zeros(943, np.int64)
    np.maximum.at(newest, dataset.train.user_idx, dataset.train.timestamp)
    assert (tested.timestamp >= newest[tested.user_idx]).all()
    share = np.bincount(tested.user_idx) / (
        np.bincount(tested.user_idx) + np.bincount(dataset.joined(["train", "valid"]).user_idx)
    )
    assert (share <= 0.1 + 1e-9).all()
    texts = dict(zip(dataset.items.ids(), item_texts(dataset.item_text, dataset.text_template), strict=True))
    assert texts["1"] == "Toy Story (1995). Animation, Children's, Comedy"
    assert texts["267"] == "unkonwn"
    assert any(text.startswith("The Usual Suspects (1995). ") for text in texts.values())


def test_ml_100k_without_recbole_says_what_to_install(monkeypatch):
    monkeypatch.setattr(recbole, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"recbole, which is not installed; pip install --no-deps recbole"):
        Ml100k().read(None, Ml100k.Config())


def labelled(folder: Path, kind: str = "label:float") -> Path:
    """Write 1,800 interactions, every tenth of which is positive, and ten positives twice."""
    folder.mkdir()
    rows = [(row % 60, row // 60 + 31 * (row % 3), int(row % 10 == 0), row) for row in range(1790)]
    rows += [rows[10 * row] for row in range(10)]
    lines = [
        f"user_id:token\titem_id:token\t{kind}\ttimestamp:float",
        *("\t".join(map(str, row)) for row in rows),
    ]
    (folder / f"{folder.name}.inter").write_text("\n".join([*lines, ""]))
    return folder


def kept(dataset: Dataset) -> int:
    return sum(len(dataset.split(name)) for name in ("train", "valid", "test"))


def test_fault_3_a_label_of_0_is_no_positive(tmp_path):
    source, options = labelled(tmp_path / "x"), {"test": 0, "valid": 0, "held_out_items": 0}
    dataset = RecBole().read(source, RecBole.Config.build(options))
    ones = 179 + 10
    assert dataset.report.dropped == {"label is 0": 1800 - ones, "repeated interaction": 10}
    assert kept(dataset) == ones - 10
    everything = RecBole().read(source, RecBole.Config.build(options | {"label_field": None}))
    assert kept(everything) == 1790


def test_fault_3_labels_of_ready_made_splits(tmp_path):
    source = labelled(tmp_path / "x")
    for split in ("train", "test"):
        shutil.copy(source / "x.inter", source / f"x.{split}.inter")
    (source / "x.inter").unlink()
    assert len(RecBole().read(source, RecBole.Config()).test) == 189


def test_fault_3_another_name_of_the_label(tmp_path):
    source = labelled(tmp_path / "x", "click:token")
    dataset = RecBole().read(source, RecBole.Config.build({"label_field": "click", "test": 0, "valid": 0}))
    assert dataset.report.dropped["click is 0"] == 1800 - 189


def test_fault_3_sequences_are_not_passed_over_in_silence(tmp_path):
    rows = ["user_id:token\titem_id:token\titem_id_list:token_seq\tvector:float_seq"]
    rows += [f"{row % 5}\t{row % 7}\t1 2 3\t0.1 0.2" for row in range(30)]
    (tmp_path / "x.inter").write_text("\n".join([*rows, ""]))
    report = RecBole().read(tmp_path, RecBole.Config()).report
    assert report.counts["interactions whose item_id_list (token_seq) is not read"] == 30
    assert report.counts["interactions whose vector (float_seq) is not read"] == 30


@pytest.mark.parametrize("splits", [False, True])
def test_fault_4_atomic_files_whose_ids_do_not_meet(tmp_path, splits):
    rows = "user_id:token\titem_id:token\n" + "".join(f"{row % 5}\t{row % 7}.0\n" for row in range(30))
    for name in ("x.train.inter", "x.test.inter") if splits else ("x.inter",):
        (tmp_path / name).write_text(rows)
    (tmp_path / "x.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"{n}\tA{n}\n" for n in range(7))
    )
    dataset = RecBole().read(tmp_path, RecBole.Config())
    assert sorted(dataset.item_text["title"].to_pylist()) == [f"A{n}" for n in range(7)]
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\nm1\tA\n")
    with pytest.raises(BadInput) as caught:
        RecBole().read(tmp_path, RecBole.Config())
    assert caught.value.value == "m1"


def test_fault_25_a_time_called_otherwise(tmp_path):
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\ttime:float\n1\t1\t5\n1\t2\t6\n1\t3\t7\n")
    with pytest.raises(BadInput) as caught:
        RecBole().read(tmp_path, RecBole.Config())
    assert caught.value.remedy == "--set time_field=time"
