"""The tables of a report, and their renderings in Markdown and LaTeX."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
from made_runs import METRICS, SCRIPT, made_examples, made_quality, made_result
from markdown_it import MarkdownIt

from reclm import intervals
from reclm.benchmarks.report import Cell, Row, Table, page, tables
from reclm.benchmarks.report.page import latex_page, latex_table, markdown_page, markdown_table, provenance
from reclm.benchmarks.results import ProtocolInfo
from reclm.benchmarks.significance import over_users
from reclm.benchmarks.user_groups import by_activity
from reclm.errors import NotFound
from reclm.intervals import NONE, number, percent

PARSER = MarkdownIt("gfm-like", {"linkify": False})


def row(table: Table, name: str) -> Row:
    return next(one for one in table.rows if one.name == name)


def all_results(result) -> list[Table]:
    return [tables.results(result, protocol) for protocol in result.about.protocols]


@pytest.mark.parametrize("module", [intervals, page])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_a_cell_is_the_mean_and_spread_over_seeds(result):
    full, _, _ = all_results(result)
    assert full.head == ("", "Recall@20", "NDCG@20", "Recall@40", "NDCG@40", "Coverage@20")
    seeds = [result.trials["LightGCN", seed, "full-shot"].values["ndcg@20"].mean() for seed in range(3)]
    mean, spread = np.mean(seeds), np.std(seeds, ddof=1)
    cell = row(full, "LightGCN").cells[1]
    assert cell.text == f"{mean:.4f} ± {spread:.4f}".replace("0.", ".")
    assert cell.value == pytest.approx(mean)
    around = over_users(result.by_user("LightGCN", "full-shot", "ndcg@20"))
    assert (cell.low, cell.high) == (around.low, around.high)


def test_published_numbers_are_below_with_the_relative_difference(result):
    full, zero, _ = all_results(result)
    at = [one.name for one in full.rows].index("LightGCN")
    below = full.rows[at + 1]
    assert (below.name, below.below) == ("published", True)
    ours = result.values("LightGCN", "full-shot", "recall@20").mean()
    assert below.cells[0].text == f".0389 ({percent(ours / 0.0389 - 1)})"
    assert below.cells[2].text == ""
    assert not any(one.below for one in zero.rows)  # nothing is published of it
    about = result.about.model_copy(update={"comparable": False})
    other = replace(result, about=about)
    assert all_results(other)[0].rows[at + 1].cells[0].text == ".0389"


def test_the_best_is_bold_where_more_is_better(result):
    for table in all_results(result):
        best = [[at for at, cell in enumerate(one.cells) if cell.best] for one in table.rows]
        assert best[[one.name for one in table.rows].index("LightGCN + RecLM")] == [
            0,
            1,
            2,
            3,
        ]  # not coverage
        assert sum(map(len, best)) == 4


def test_marks_are_those_of_the_corrected_tests(result):
    for table, protocol in zip(all_results(result), result.about.protocols, strict=True):
        for one in table.rows:
            for cell, metric in zip(one.cells, METRICS, strict=False):
                test = result.verdict.by_base.get((one.name, protocol.name, metric))
                assert cell.significant == bool(test and test.p_holm < 0.05)
    assert any(cell.significant for one in all_results(result)[0].rows for cell in one.cells)


def test_subgroups_have_no_tests_of_their_own(result):
    *_, cold = all_results(result)
    assert "subgroup of full-shot" in cold.about
    assert not any(cell.significant for one in cold.rows for cell in one.cells)
    assert len(tables.comparisons(result)) == len(tables.activity(result)) == 2


def test_users_without_a_value_are_left_out():
    result = made_result(backbones=("LightGCN",))
    for seed in range(3):
        result.trials["LightGCN", seed, "zero-shot"].values["ndcg@20"][:4] = np.nan
    result.trials["LightGCN", 0, "zero-shot"].values["ndcg@20"][4] = np.nan  # another seed has one
    found = over_users(result.by_user("LightGCN", "zero-shot", "ndcg@20"))
    assert found.n == 56
    assert np.isfinite(np.array([found.low, found.mean, found.high], float)).all()


def test_an_absent_or_failed_row_says_why(result):
    full, _, _ = all_results(result)
    assert row(full, "SGL") == Row("SGL", instead="needs a GPU of 40 GB", first=True)
    assert any("LightGCN + random" in note and "seed 2" in note for note in full.notes)
    assert "LightGCN + RecLM: drawn from the nodes of the batch" in full.notes
    nothing = made_result(users=5, seeds=1, backbones=("LightGCN",))
    nothing.trials.clear()
    table = all_results(nothing)[0]
    assert row(table, "LightGCN + random").instead.startswith("seed 2 failed")
    assert row(table, "LightGCN").instead
    assert tables.comparisons(nothing) == []


def test_comparisons_hold_the_tests_and_the_best_control(result):
    full, _ = tables.comparisons(result)
    test = result.verdict.by_base["LightGCN + RecLM", "full-shot", "ndcg@20"]
    cells = dict(zip(full.head[1:], row(full, "LightGCN + RecLM").cells, strict=True))
    assert cells["against"].text == "LightGCN"
    assert cells["change"].text == percent(test.change)
    assert (cells["difference"].value, cells["difference"].low) == (test.test.difference, test.test.low)
    assert cells["p"].value == test.p_holm
    assert (cells["users"].text, cells["seeds"].text) == ("60", "3")
    best = [one.cells[0].text for one in full.rows if one.below]
    assert best == ["LightGCN + keywords", "BiasMF + keywords"]
    assert full.only("against", "p").head == ("", "against", "p")
    assert row(full.only("against", "p"), "LightGCN + RecLM").cells == (cells["against"], cells["p"])


def test_activity_rows_hold_means_and_differences(result):
    full, _ = tables.activity(result)
    found = by_activity(result, "LightGCN + RecLM", "full-shot", "ndcg@20")
    assert full.head[1:] == tuple(one.name.replace("-", "–") for one in found)
    assert [cell.value for cell in row(full, "LightGCN + RecLM").cells] == [one.row.mean for one in found]
    below = full.rows[full.rows.index(row(full, "LightGCN + RecLM")) + 1]
    assert below.below
    first = found[0].difference
    assert (below.cells[0].value, below.cells[0].low) == (first.mean, first.low)
    assert below.cells[0].text.startswith(number(first.mean, sign=True) + " (")


def test_cost_has_the_writers_time_and_the_gain(result):
    table = tables.cost(replace(result, quality=tuple(made_quality())))
    cells = dict(zip(table.head[1:], table.rows[1].cells, strict=True))
    assert table.rows[1].name == "LightGCN + RecLM"
    texts = [cells[name].text for name in ("an epoch", "added", "epochs", "a trial", "its profiles")]
    assert texts == ["2.0 s", "+17.6 %", "30", "61 s", "7 min"]
    assert "its profiles" not in tables.cost(result).head
    assert tables.cost(result).head[-2:] == ("full-shot", "zero-shot")


def test_the_frame_has_means_intervals_change_and_p(result):
    frame = result.table()
    assert list(frame.columns) == [
        "protocol", "row", "NDCG@20", "NDCG@20 low", "NDCG@20 high",
        "Recall@20", "Recall@20 low", "Recall@20 high", "change", "p",
    ]  # fmt: skip
    assert len(frame) == 3 * 10  # the absent row has no numbers
    one = frame[(frame.protocol == "zero-shot") & (frame.row == "BiasMF + RecLM")].iloc[0]
    test = result.verdict.by_base["BiasMF + RecLM", "zero-shot", "ndcg@20"]
    assert (one.change, one.p) == (test.change, test.p_holm)
    assert one["NDCG@20"] == pytest.approx(result.values("BiasMF + RecLM", "zero-shot", "ndcg@20").mean())
    assert np.isnan(frame[frame.row == "BiasMF"].p).all()
    coverage = result.table(["Coverage@20"])
    assert "Coverage@20 low" not in coverage  # not a mean over users
    with pytest.raises(NotFound) as error:
        result.table(["NDCG@2"])
    assert (error.value.value, error.value.remedy) == ("ndcg@2", "ndcg@20")
    about = result.about.model_copy(update={"metrics": ("ndcg@40",)})
    assert "NDCG@40" in replace(result, about=about).table()  # neither of the usual metrics was measured


def test_intervals_are_over_users_and_their_means_over_seeds(result):
    trials = [result.trials["BiasMF", seed, "zero-shot"] for seed in range(3)]
    found = over_users(result.by_user("BiasMF", "zero-shot", "ndcg@20"))
    users = np.mean([trial.values["ndcg@20"] for trial in trials], axis=0, dtype=float)
    half = 2.0009953 * users.std(ddof=1) / 60**0.5  # Student's t, 59 degrees of freedom
    assert (found.low, found.mean, found.high) == pytest.approx(
        (users.mean() - half, users.mean(), users.mean() + half), rel=1e-6
    )
    other = made_result(backbones=("LightGCN",))
    for (_, seed, _), trial in other.trials.items():
        trial.user_ids[:] = [f"{seed}-{user}" for user in range(60)]  # other users by seed
    assert over_users(other.by_user("LightGCN", "zero-shot", "ndcg@20")).n == 180


def test_provenance_says_how_the_run_was_made(result):
    found = provenance(result)
    names = [name for name, _ in found]
    assert names == [
        "data set", "seeds", "epoch chosen by", "published numbers",
        "profiles by SmolLM2-135M, tuned", "no profile", "smallest findable effect",
        "smallest findable effect", "remark", "failed"
    ]  # fmt: skip
    assert ("data set", "mind-release, fingerprint 3f9a0c21d4") in found
    assert any("300 of 943 users" in text for _, text in found)
    assert found[-1][1].startswith("LightGCN + random, seed 2")


def test_markdown_cannot_be_forged():
    forged = "x | y\n\n# z <script>alert(1)</script> `a` [b](https://c.org) \x1b[2J"
    kinds = []
    for name in (forged, "x"):
        result = made_result(users=12, seeds=1, name=name, backbones=("LightGCN",))
        examples = tuple(made_examples(2, title=name))
        text = markdown_page(replace(result, examples=examples, quality=tuple(made_quality())), whole=True)
        kinds.append([one.type for one in PARSER.parse(text)])
        assert "\x1b" not in text
    assert kinds[0] == kinds[1]


def test_markdown_is_whole(result):
    result = replace(result, examples=tuple(made_examples(1)), quality=tuple(made_quality()))
    text = markdown_page(result, whole=True)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [f"## {name}" for name in (
        "Results", "Comparisons", "By activity", "Cost and gain", "Profiles", "Users", "How it was made"
    )]  # fmt: skip
    assert "**(in the test part)**" in text
    assert "3f9a0c21d4" in text
    short = result.to_markdown()
    assert [line for line in short.splitlines() if line.startswith("## ")] == [
        "## Results", "## Comparisons", "## How it was made"
    ]  # fmt: skip
    assert "<script" not in text.replace("\\<script", "")


def test_latex_is_escaped_and_balanced():
    name = r" \input{/etc/passwd} 50% & #1 _x_ ^ ~ $a$ {"
    text = latex_page(made_result(users=12, seeds=2, name=name, backbones=("LightGCN",)))
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"\input" not in body
    assert (
        r"\textbackslash{}input\{/etc/passwd\} 50\% \& \#1 \_x\_ \textasciicircum{} \textasciitilde{} \$a\$ \{"
        in body
    )
    bare = body.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    assert body.count(r"\begin{tabular}{lrrrrr}") == 3
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    for line in rows:
        if r"\multicolumn" not in line:
            assert line.replace(r"\&", "").count("&") in (5, 9)  # of six columns, or of ten


def test_a_marked_cell_in_both():
    cell = Cell(".1 ± .2", 0.1, best=True, significant=True)
    table = Table("t", ("", "m"), (Row("a", (cell,)), Row("b", instead="no & why")))
    assert markdown_table(table).splitlines()[2:] == [r"| a | **.1 ± .2**\* |", r"| b | no \& why |"]
    assert r"a & \textbf{.1 $\pm$ .2}$^{*}$ \\" in latex_table(table, "c", "l")
    assert r"b & \multicolumn{1}{l}{\emph{no \& why}} \\" in latex_table(table, "c", "l")


def test_a_metric_that_no_row_has_is_a_dash(result):
    about = result.about.model_copy(update={"metrics": (*result.about.metrics, "lift@20")})
    table = tables.results(
        replace(result, about=about), ProtocolInfo(name="zero-shot", users=1, candidates=1)
    )
    assert row(table, "LightGCN").cells[-1].text == NONE
    assert SCRIPT not in str(table)


def test_users_with_and_without_a_profile_stand_in_a_table_of_their_own(result):
    assert tables.profiled(result) == []
    told = {
        key: replace(trial, profiled=np.arange(len(trial.user_ids)) % 2 == 0)
        for key, trial in result.trials.items()
        if key[0] == "LightGCN + RecLM"
    }
    full, _ = tables.profiled(replace(result, trials=result.trials | told))
    assert full.head == ("", "with a profile", "without")
    assert [one.name for one in full.rows] == [
        "LightGCN + RecLM",
        f"less {result.row('LightGCN + RecLM').base}",
    ]
