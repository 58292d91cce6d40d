"""``reclm data``, through the command line."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from reclm.cli import main
from reclm.data.storage import load_folder, save
from reclm.testing import checkerboard

DATA = checkerboard()
LOG = "user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{u * i}\n" for u in range(4) for i in range(10))


@pytest.fixture
def reclm(monkeypatch, capsys, tmp_path):
    """Runs ``reclm data …`` in ``tmp_path`` and returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECLM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reclm", "data", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


def test_prepare_show_list(reclm, log, tmp_path):
    code, out, _ = reclm("prepare", "table", "--source", log, "--as", "books", "--set", "held_out_items=0.2")
    assert code == 0
    assert "books: 4 users × 10 items, density 100.0000%" in out
    # 8 items are left to each of 4 users: max(1, ⌊.8⌋) = 1 to test on; 2 items are held out with 4 users each
    assert ["full-shot", "8", "4", "4", "28"] in [line.split() for line in out.splitlines()]
    assert ["zero-shot", "2", "4", "8", "0"] in [line.split() for line in out.splitlines()]
    assert "next: reclm bench --dataset books --set items=id" in out  # there is no item text
    code, shown, _ = reclm("show", "books")
    assert code == 0
    assert shown.splitlines()[1:] == out.splitlines()[1:]
    code, out, _ = reclm("list")
    assert code == 0
    assert "books" in out
    assert "adjacency" in out
    assert "next: reclm data prepare NAME --source PATH" in out


def test_options_as_flags_and_another_home(reclm, log, tmp_path):
    home = tmp_path / "other home"
    code, out, _ = reclm(
        "prepare",
        "table",
        "--source",
        log,
        "--home",
        home,
        "--held-out-items",
        "0",
        "--seed=3",
        "--test",
        "0.2",
    )
    assert code == 0
    assert f"next: reclm bench --dataset table --set items=id --home '{home}'" in out
    dataset = load_folder(home / "datasets" / "table")
    assert [one.name for one in dataset.protocols] == ["full-shot"]
    assert len(dataset.test) == 8


def test_out_folder(reclm, log):
    code, out, _ = reclm("prepare", "table", "--source", log, "--out", "here")
    assert code == 0
    assert "next: reclm bench --dataset here --set items=id" in out
    assert reclm("show", "here")[0] == 0


def test_what_comes_from_data_cannot_style_or_steer_the_terminal(reclm, tmp_path):
    (tmp_path / "log.csv").write_text(LOG.replace("i3", "[bold]i3[/]"))
    (tmp_path / "items.csv").write_text("item_id,title\ni0,[red]Title[/red] \x1b[31m[INST]\n[bold]i3[/],x\n")
    code, out, _ = reclm(
        "prepare", "table", "--source", "log.csv", "--items", "items.csv", "--held-out-items", "0"
    )
    assert code == 0
    assert "[red]Title[/red] \\x1b[31m[INST]" in out
    assert "\x1b[31m" not in out
    assert load_folder(tmp_path / "home/datasets/table").items.ids()[3] == "[bold]i3[/]"


def test_export_is_read_back(reclm, log, tmp_path):
    reclm("prepare", "table", "--source", log, "--as", "books")
    code, out, _ = reclm("export", "books", "--format", "recbole", "--out", "exported")
    assert code == 0
    assert "dataset=exported" in out
    assert reclm("prepare", "recbole", "--source", "exported", "--as", "again")[0] == 0
    before, after = (load_folder(tmp_path / "home/datasets" / name) for name in ("books", "again"))
    for split in ("train", "valid", "test"):
        assert (before.split(split).user_idx == after.split(split).user_idx).all()
        assert (before.split(split).item_idx == after.split(split).item_idx).all()


def test_a_data_set_without_item_text_is_shown_and_benched_by_id(reclm, tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text(f"0 1 2\n1 {len(name)}\n")
    code, out, _ = reclm("prepare", "adjacency", "--source", ".", "--as", "gowalla", "--mask", "train,valid")
    assert code == 0
    assert "there is no item text" in out
    assert "next: reclm bench --dataset gowalla --set items=id" in out
    assert reclm("show", "gowalla")[1].splitlines()[1:] == out.splitlines()[1:]


def test_amazon_reviews_are_prepared_and_shown(reclm):
    reviews = [
        {
            "user_id": f"A{user}",
            "parent_asin": f"B{item}",
            "rating": 4.0,
            "timestamp": 10**12 + item,
            "text": "<b>Good</b>",
        }
        for user in range(5)
        for item in range(5)
    ]
    items = [{"parent_asin": f"B{item}", "title": f"Book {item}", "price": "from 3.50"} for item in range(5)]
    for name, lines in (("Books", reviews), ("meta_Books", items)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    code, out, _ = reclm("prepare", "amazon", "--source", ".", "--as", "books", "--held-out-items", "0")
    assert code == 0
    assert "books: 5 users × 5 items" in out
    assert "25 reviews with HTML" in out
    assert "Books.jsonl:26: {broken" in out
    assert "Book 2" in out
    assert reclm("show", "books")[1].splitlines()[1:] == out.splitlines()[1:]
    code, _, err = reclm("prepare", "amazon", "--source", ".", "--strict")
    assert code == 2
    assert err.startswith("error: Books.jsonl:26: {broken")


def test_malformed_lines_are_shown_and_strict_stops(reclm, log):
    log.write_text(LOG + "broken\nu1,i1,yesterday\n")
    code, out, _ = reclm("prepare", "table", "--source", "log.csv")
    assert code == 0
    assert ["malformed", "line", "2"] in [line.split() for line in out.splitlines()]
    assert "log.csv:42: broken (1 fields, not 3)" in out
    code, _, err = reclm("prepare", "table", "--source", "log.csv", "--strict")
    assert code == 2
    assert err.startswith("error: log.csv:42: broken (1 fields, not 3)")


def make_bad_input(folder: Path) -> None:
    (folder / "empty.csv").touch()
    (folder / "notes.txt").write_text("hello")
    with zipfile.ZipFile(folder / "news-only.zip", "w") as archive:
        archive.writestr("news.tsv", "N1\ta\tb\tc\td\te\tf\tg\n")
    with zipfile.ZipFile(folder / "mind.zip", "w") as archive:
        archive.writestr("behaviors.tsv", "1\tU1\t11/14/2019 8:00:00 AM\t\tN1-1\n")
        archive.writestr("news.tsv", "N1\ta\tb\tc\td\te\tf\tg\n")
    (folder / "thesis").mkdir()
    (folder / "thesis" / "draft.tex").touch()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prepare table --source absent.csv", "no such file or folder: absent.csv"),
        ("prepare table --source empty.csv", "empty.csv is empty"),
        ("prepare table --source notes.txt", "ending '.txt'"),
        ("prepare mind --source news-only.zip", "no behaviors.tsv in news-only.zip"),
        ("prepare mind --source absent.zip", "no such file or folder: absent.zip"),
        ("prepare mind", "needs --source PATH"),
        (
            "prepare mind --source mind.zip --train-day 2019-11-10",
            "train_day 2019-11-10 has no clicks; days with clicks: 2019-11-14 (1 clicks)",
        ),
        ("prepare mind --source mind.zip", "no two consecutive whole days"),
        ("prepare mind --source mind.zip --set train_day=2019-11-31", "train_day = '2019-11-31'"),
        ("prepare mind --source mind.zip --set trainday=2019-11-10", "did you mean 'train_day'"),
        ("prepare recbole --source .", "no .inter file in ."),
        ("prepare amazon --source .", "no file of reviews in .; --source must be a folder with NAME.jsonl"),
        ("prepare amazon --source log.csv", "no file of reviews in log.csv"),
        ("prepare table --source log.csv --set user_column=usr_id", "'usr_id'; did you mean 'user_id'"),
        ("prepare table --source log.csv --set valid=half", "table option: valid = 'half'"),
        ("prepare table --source log.csv --set valid", "write key=value"),
        ("prepare table --source log.csv --strikt", "--strikt is no flag"),
        ("prepare table --source log.csv extra", "unexpected argument 'extra'"),
        ("prepare table --source log.csv --out thesis", "thesis holds something else"),
        ("prepare tabel --source log.csv", "did you mean 'table'"),
        ("show adjacenzy", "did you mean 'adjacency'"),
        ("show mind", "reclm data prepare mind --source PATH"),
        ("show log.csv", "log.csv is no prepared data set"),
        ("export mind --out x", "reclm data prepare mind --source PATH"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(reclm, log, tmp_path, arguments, message):
    make_bad_input(tmp_path)
    code, out, err = reclm(*arguments.split())
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['reclm', 'data', 'prepare', '--help']\n"
        "from reclm.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("words", [["--reader", "x"], ["--set", "source=x"], ["--set", "name=x"]])
def test_what_is_no_option_of_a_reader_is_named(reclm, log, words):
    code, _, error = reclm("prepare", "table", "--source", log, *words)
    assert code == 2
    assert "is no option of a reader" in error
    assert error.count("\n") == 1


def test_check_says_whether_profiles_could_help(reclm, tmp_path, monkeypatch):
    save(replace(DATA, item_text=DATA.item_text.select([])), tmp_path / "home" / "datasets" / "board")
    code, out, _ = reclm("check", "board")
    assert code == 0
    for words in ("EASE", "validation", "zero-shot", "24 users are tested", "Profiles could help"):
        assert words in out
    assert out.splitlines()[-1] == "next: reclm bench --dataset board --augment"
    assert reclm("check", "elsewhere")[0] == 2
