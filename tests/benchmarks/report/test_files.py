"""What is read and written: figures, examples and measures of profiles, and the report's own files."""

import csv
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_runs import made_check, made_examples, made_quality, made_result

from reclm.benchmarks.experiment import compare
from reclm.benchmarks.report import FILES, figures, write_report
from reclm.benchmarks.report.page import html_page
from reclm.benchmarks.result_files import Example
from reclm.benchmarks.results import Result
from reclm.data.storage import load_folder
from reclm.errors import BadInput, Damaged, NotFound, ReclmError
from reclm.files import CHECKSUMS
from reclm.testing import checkerboard


def empty() -> Result:
    result = made_result(users=5, seeds=1, backbones=("LightGCN",))
    result.trials.clear()
    result.history.clear()
    return result


def test_a_figure_is_the_same_twice_and_shows_texts_as_they_are_written():
    drawn = [
        figures.changes(made_result(users=12, name=' <b> $x$ id="', backbones=("LightGCN",)))
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    root = ElementTree.fromstring(drawn[0][0].svg)
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert 'LightGCN + RecLM <b> $x$ id="' in texts


def test_controls_are_dashed_and_the_base_has_the_first_colour(result):
    palette = figures.colours(result)
    assert {palette[name] for name in ("LightGCN", "BiasMF")} == {figures.SERIES[0]}
    assert {palette[name] for name in ("LightGCN + RecLM", "BiasMF + RecLM")} == {figures.SERIES[1]}
    key = figures.curves(result)[0].key
    assert [control for _, _, control in key] == [False, False, True, True, True]


def test_nothing_to_draw_draws_nothing():
    nothing = empty()
    for draw in (figures.bars, figures.changes, figures.curves, figures.activity):
        assert draw(nothing) == []
    assert nothing.plot() is not None


def test_the_plot_has_a_panel_for_each_protocol_and_the_learning_curves(result):
    axes = result.plot().axes
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["full-shot", "zero-shot"]
    assert len(axes) == 3
    assert len(axes[0].patches) == 10  # a bar for each row that ran
    few = made_result(seeds=1, backbones=("LightGCN",))
    name = few.about.rows[0].name
    few.history.clear()
    few.history[name, 0] = [{"epoch": 1.0, "loss": 0.7}, {"epoch": 2.0, "loss": 0.6, "ndcg@20": 0.1}]
    (curve,) = few.plot().axes[-1].lines  # not every epoch was evaluated
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([2.0], [0.1])  # pyright: ignore[reportArgumentType]


def test_a_run_without_anything_still_has_a_report(tmp_path):
    empty().save(tmp_path)
    write_report(tmp_path, progress=False)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not decided" in page
    assert "needs a GPU of 40 GB" in page


def test_csv_is_the_table(written):
    result = Result.load(written)
    with (written / "results.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3 * 5
    first = found[0]
    assert (first["protocol"], first["row"]) == (result.about.protocols[0].name, result.about.rows[0].name)
    wanted = result.values(first["row"], first["protocol"], "ndcg@20").mean()
    assert float(first["NDCG@20"]) == pytest.approx(wanted)
    assert float(first["NDCG@20 low"]) < wanted < float(first["NDCG@20 high"])


def test_what_the_data_can_tell_is_a_box_where_the_run_knows_it(written):
    with_box, without = html_page(Result.load(written)), html_page(made_result(users=5, seeds=1))
    assert with_box.count('id="data"') == 1
    assert with_box.count(">.0213<") == 1
    assert 'id="data"' not in without


def test_written_twice_is_the_same(written, tmp_path):
    write_report(written, tmp_path, progress=False)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_a_result_survives_a_round_trip(written, tmp_path):
    found = Result.load(written)
    assert (found.examples, found.quality) == (tuple(made_examples()), tuple(made_quality()))
    assert found.data == made_check()
    assert found.folder == written
    again = replace(found, examples=(), quality=(), data=None)
    again.save(tmp_path)
    loaded = Result.load(str(tmp_path))
    assert loaded.about == found.about
    assert loaded.trials.keys() == found.trials.keys()
    assert loaded.history == found.history
    assert loaded.examples == loaded.quality == ()
    assert loaded.data is None
    assert loaded.table().equals(found.table())


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"user_id": "1"}, "history"),
        ({"user_id": "1", "history": [], "historie": []}, "historie"),
        ({"user_id": "1", "history": [], "top": {"a": ["x"]}, "hits": {"a": [True, False]}}, "hits"),
    ],
)
def test_a_wrong_example_is_named(tmp_path, row, word):
    empty().save(tmp_path)
    (tmp_path / "examples.json").write_text(json.dumps([{"user_id": "0", "history": []}, row]), "utf-8")
    with pytest.raises(Damaged) as error:
        Result.load(tmp_path)
    assert error.value.where == tmp_path / "examples.json"
    assert "number 2" in str(error.value)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_text_that_utf8_cannot_hold_is_written(tmp_path):
    made_result(users=5, seeds=1, backbones=("LightGCN",)).save(tmp_path)
    text = '[{"user_id": "1", "history": ["half of an emoji \\ud83d"]}]'
    (tmp_path / "examples.json").write_text(text, encoding="utf-8")
    write_report(tmp_path, progress=False)
    assert "half of an emoji \\ud83d" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_hits_are_by_row():
    one = Example(user_id="1", history=(), top={"a": ("x", "y"), "b": ("x",)}, hits={"a": (False, True)})
    assert one.ranked("a") == [("x", False), ("y", True)]
    assert one.ranked("b") == [("x", False)]


def test_dozens_of_lists_are_folded_away():
    result = made_result(users=12, seeds=1, backbones=("LightGCN",))
    few, many = (
        html_page(
            replace(
                result,
                examples=(Example(user_id="u", history=("a",), top={f"r{n}": ("x",) for n in range(count)}),),
            )
        )
        for count in (4, 26)
    )
    assert many.count("<details>") == few.count("<details>") + 1
    assert many.count("<article>") == many.count("</article>") == 1


def test_the_best_model_is_the_one_with_profiles(monkeypatch, tmp_path):
    from reclm.recommend import saved

    monkeypatch.setattr(saved, "load_model", lambda folder: folder)
    result = empty()
    with pytest.raises(NotFound):
        _ = result.best
    result.save(tmp_path)
    with pytest.raises(NotFound) as error:
        _ = result.best
    assert error.value.where == tmp_path / "models"
    for name in ("base", "augment"):
        (tmp_path / "models" / name).mkdir(parents=True)
        assert result.best == tmp_path / "models" / name


def test_a_result_says_what_it_holds(written):
    result = Result.load(written)
    assert all(word in repr(result) for word in ("6 rows", "3 seeds", "full-shot", "helped"))
    html = result._repr_html_()
    assert "<script" not in html
    assert html.count("<tr") == 1 + 3 * 5
    users = result.per_user()
    assert list(users.columns[:5]) == ["row", "seed", "protocol", "user_id", "activity"]
    assert len(users) == sum(len(trial.user_ids) for trial in result.trials.values())


def test_a_result_is_saved_as_a_whole_or_not_at_all(result, tmp_path, monkeypatch):
    run = tmp_path / "run"
    result.save(run)
    (run / "models").mkdir()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("reclm.benchmarks.result_files.write_checksums", killed)
        for name in ("run", "new"):
            with pytest.raises(KeyboardInterrupt):
                replace(result, history={}).save(tmp_path / name)
    assert Result.load(run).history == result.history
    assert [path.name for path in tmp_path.rglob("*") if path.parent.name == "new"] == []
    replace(result, history={}).save(run)
    assert not Result.load(run).history
    assert (run / "models").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"]


def test_a_run_is_not_written_over_the_files_of_something_else(result, tmp_path):
    checkerboard(users=8, items=8).save(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    for name in ("data", "file", "file/below"):
        with pytest.raises(BadInput) as error:
            result.save(tmp_path / name)
        assert error.value.value == tmp_path / name
        with pytest.raises(BadInput):
            compare("popularity", checkerboard(users=8, items=8), out=tmp_path / name)
    load_folder(tmp_path / "data")
    assert (tmp_path / "file").read_text() == "mine"
    result.save(tmp_path / "run")
    result.save(tmp_path / "run")
    with pytest.raises(BadInput):
        result.to_html(tmp_path / "run")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("seeds", [0, -1, 1.5, None])
def test_a_number_of_seeds_that_cannot_be_is_bad_input(seeds):
    with pytest.raises(BadInput) as error:
        compare("popularity", checkerboard(users=8, items=8), seeds=seeds, select_on="test")
    assert error.value.where == "seeds"


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    result = made_result(users=6, seeds=1, backbones=("LightGCN",))
    replace(result, examples=made_examples(), quality=made_quality()).save(folder)
    return folder


@pytest.mark.parametrize(
    "name", ["about.json", "results.parquet", "users.parquet", "history.parquet", "examples.json"]
)
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
@pytest.mark.parametrize("sums", [True, False])
def test_fault_35_a_damaged_run_is_one_line_and_no_empty_report(saved_run, tmp_path, name, damage, sums):
    folder = tmp_path / "run"
    shutil.copytree(saved_run, folder)
    if not sums:  # a run of an earlier version
        (folder / CHECKSUMS).unlink()
    whole = (folder / name).read_bytes()
    middle = len(whole) // 2
    changes = {
        "cut": lambda path: path.write_bytes(whole[:middle]),
        "changed": lambda path: path.write_bytes(
            whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
        ),
        "gone": lambda path: path.unlink(),
    }
    changes[damage](folder / name)
    if sums:
        with pytest.raises((Damaged, NotFound)):
            Result.load(folder)
    else:
        with suppress(ReclmError):
            Result.load(folder)


def test_users_that_occur_twice_and_infinite_values_are_damage(saved_run, tmp_path):
    """Also where there are no checksums."""
    folder = tmp_path / "run"
    shutil.copytree(saved_run, folder)
    (folder / CHECKSUMS).unlink()
    table = pq.read_table(folder / "users.parquet")
    metric = next(name for name in table.column_names if "@" in name)
    infinite = table.set_column(
        table.column_names.index(metric), metric, pa.array([1e300] * len(table), pa.float64())
    )
    for parts in ([table, table], [table.slice(0, 1), table], [infinite]):
        pq.write_table(pa.concat_tables(parts), folder / "users.parquet")
        with pytest.raises(Damaged) as caught:
            Result.load(folder)
        assert caught.value.where == folder / "users.parquet"


@pytest.mark.parametrize("name", ["results.parquet", "users.parquet", "history.parquet"])
def test_fault_35_columns_of_another_type_or_no_rows_at_all(saved_run, tmp_path, name):
    """Also where there are no checksums."""
    folder = tmp_path / "run"
    shutil.copytree(saved_run, folder)
    (folder / CHECKSUMS).unlink()
    table = pq.read_table(folder / name)
    for column in range(table.num_columns):
        field = table.column_names[column]
        for odd in (b"\xff", [1], {"a": 1}, "", None):
            values = pa.array([odd] * len(table))
            pq.write_table(table.set_column(column, field, values), folder / name)
            if odd is not None and (odd != "" or table.schema.field(field).type != pa.string()):
                with pytest.raises(Damaged) as caught:
                    Result.load(folder)
                assert caught.value.where == folder / name
            else:
                with suppress(ReclmError):
                    Result.load(folder).to_markdown()
        renamed = [other if other != field else "-" for other in table.column_names]
        pq.write_table(table.rename_columns(renamed), folder / name)
        if name == "results.parquet" or field in ("row", "seed", "protocol", "user_id", "activity"):
            with pytest.raises(Damaged):
                Result.load(folder)
    pq.write_table(table.slice(0, 0), folder / name)
    if name != "history.parquet":
        with pytest.raises(Damaged):
            Result.load(folder)
