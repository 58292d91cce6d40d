"""What is read and written: figures, the two extra files, and the report's own."""

import csv
import json
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from made_runs import made_examples, made_quality, made_record

from reclm.benchmarks.report import figures
from reclm.benchmarks.report.extras import Example, read_examples, read_profiles
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.panels import colours
from reclm.benchmarks.report.svg import VARIABLES
from reclm.benchmarks.report.web import html_page
from reclm.benchmarks.report.write import FILES, write
from reclm.errors import ReclmError


def test_a_figure_is_the_same_twice_and_has_the_pages_colours():
    drawn = [
        figures.changes(Numbers(made_record(users=12, name=" <b> $x$", backbones=("LightGCN",))))
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    svg = drawn[0][0].svg
    assert not any(colour in svg for colour in VARIABLES)
    assert "var(--c1)" in svg
    assert "font-family" not in svg
    texts = [one.text for one in ElementTree.fromstring(svg).iter("text")]
    assert "LightGCN + RecLM <b> $x$" in texts


def test_controls_are_dashed_and_what_is_compared_with_is_grey(numbers):
    palette = colours(numbers)
    assert [palette[name] for name in ("LightGCN", "BiasMF", "LightGCN + RecLM", "BiasMF + RecLM")] == [
        0,
        0,
        1,
        1,
    ]
    key = figures.curves(numbers)[0].key
    assert [control for _, _, control in key] == [False, False, True, True, True]


def test_nothing_to_draw_draws_nothing():
    record = made_record(users=5, seeds=1, backbones=("LightGCN",))
    record.cells.clear()
    record.history.clear()
    nothing = Numbers(record)
    for draw in (figures.bars, figures.changes, figures.curves, figures.activity, figures.cost):
        assert draw(nothing) == []


def test_a_run_without_anything_still_has_a_report(tmp_path):
    record = made_record(users=5, seeds=1, backbones=("LightGCN",))
    record.cells.clear()
    record.history.clear()
    record.save(tmp_path)
    write(tmp_path, progress=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing was compared" in page
    assert "needs a GPU of 40 GB" in page


def test_csv_is_the_record(written):
    rows = pq.read_table(written / "results.parquet").to_pylist()
    with (written / "results.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert [(one["row"], int(one["seed"]), one["metric"], float(one["value"])) for one in found] == [
        (one["row"], one["seed"], one["metric"], one["value"]) for one in rows
    ]


def test_written_twice_is_the_same(written, tmp_path):
    write(written, tmp_path, progress=False)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_extras_survive_a_round_trip_and_need_not_be_there(written, tmp_path):
    assert read_examples(written) == made_examples()
    assert read_profiles(written) == made_quality()
    assert read_examples(tmp_path) == read_profiles(tmp_path) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"user_id": "1"}, "history"),
        ({"user_id": "1", "history": [], "historie": []}, "did you mean 'history'"),
        (
            {"user_id": "1", "history": [], "top": {"a": ["x"]}, "hits": {"a": [True, False]}},
            "a: 2 hits of 1 items",
        ),
    ],
)
def test_a_wrong_example_is_named(tmp_path, row, message):
    (tmp_path / "examples.json").write_text(
        json.dumps([{"user_id": "0", "history": []}, row]), encoding="utf-8"
    )
    with pytest.raises(ReclmError, match=message) as error:
        read_examples(tmp_path)
    assert "examples.json, number 2" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_that_utf8_cannot_hold_is_written(tmp_path):
    record = made_record(users=5, seeds=1, backbones=("LightGCN",))
    record.save(tmp_path)
    (tmp_path / "examples.json").write_text(
        '[{"user_id": "1", "history": ["half of an emoji \\ud83d"]}]', encoding="utf-8"
    )
    write(tmp_path, progress=False)
    assert "half of an emoji \\ud83d" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_hits_are_by_line():
    one = Example(user_id="1", history=(), top={"a": ("x", "y"), "b": ("x",)}, hits={"a": (False, True)})
    assert one.ranked("a") == [("x", False), ("y", True)]
    assert one.ranked("b") == [("x", False)]


def test_dozens_of_lists_are_folded_away():
    numbers = Numbers(made_record(users=12, seeds=1, backbones=("LightGCN",)))
    few, many = (
        Example(user_id="u", history=("a",), profile=None, top={f"line {n}": ("x",) for n in range(count)})
        for count in (4, 26)
    )
    folded = "What 26 lines recommend"
    assert folded in html_page(numbers, [many])
    assert html_page(numbers, [many]).count("<details>") == html_page(numbers, [few]).count("<details>") + 1
    assert (
        html_page(numbers, [many]).count("<article>") == html_page(numbers, [many]).count("</article>") == 1
    )
