"""The tables of a report, and what becomes of them in Markdown and LaTeX."""

import doctest

import numpy as np
import pytest
from made_runs import METRICS, SCRIPT, made_examples, made_quality, made_record
from markdown_it import MarkdownIt

from reclm.benchmarks.report import shown, tables, texts
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.pages import latex_page, markdown_page
from reclm.benchmarks.report.tables import Row, Table, TableCell

PARSER = MarkdownIt("gfm-like", {"linkify": False})


def row(table: Table, name: str) -> Row:
    return next(one for one in table.rows if one.name == name)


@pytest.mark.parametrize("module", [shown, texts])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_a_cell_is_the_mean_and_spread_over_seeds(numbers):
    full, _, _ = tables.results(numbers)
    assert full.head == ("", "Recall@20", "NDCG@20", "Recall@40", "NDCG@40", "Coverage@20")
    seeds = [
        numbers.record.cells["LightGCN", seed, "full-shot"].values["ndcg@20"].mean() for seed in range(3)
    ]
    mean, spread = np.mean(seeds), np.std(seeds, ddof=1)
    assert row(full, "LightGCN").cells[1].text == f"{mean:.4f} ± {spread:.4f}".replace("0.", ".")


def test_published_numbers_stand_below_with_the_difference(numbers):
    full, zero, _ = tables.results(numbers)
    at = [one.name for one in full.rows].index("LightGCN")
    below = full.rows[at + 1]
    assert (below.name, below.below) == ("published", True)
    ours = numbers.values("LightGCN", "full-shot", "recall@20").mean()
    assert below.cells[0].text == f".0389 (+{ours - 0.0389:.4f})".replace("+0.", "+.")
    assert below.cells[2].text == shown.NONE
    assert not any(one.below for one in zero.rows)  # nothing is published of it


def test_the_best_is_bold_where_more_is_better(numbers):
    for table in tables.results(numbers):
        best = [[at for at, cell in enumerate(one.cells) if cell.best] for one in table.rows]
        assert best[[one.name for one in table.rows].index("LightGCN + RecLM")] == [
            0,
            1,
            2,
            3,
        ]  # not coverage
        assert sum(map(len, best)) == 4


def test_marks_are_those_of_the_corrected_tests(numbers):
    for table, protocol in zip(tables.results(numbers), numbers.about.protocols, strict=True):
        for one in table.rows:
            for cell, metric in zip(one.cells, METRICS, strict=False):
                found = numbers.differences.get((one.name, protocol.name, metric))
                assert bool(cell.mark) == bool(found and found.p_holm < 0.05)
    assert any(cell.mark for one in tables.results(numbers)[0].rows for cell in one.cells)


def test_a_slice_is_told_as_such(numbers):
    *_, cold = tables.results(numbers)
    assert cold.about.endswith("; a part of full-shot, without tests of its own")
    assert len(tables.comparisons(numbers)) == len(tables.activity(numbers)) == 2


def test_users_without_a_value_are_left_out():
    record = made_record(backbones=("LightGCN",))
    for seed in range(3):
        record.cells["LightGCN", seed, "zero-shot"].values["ndcg@20"][:4] = np.nan
    record.cells["LightGCN", 0, "zero-shot"].values["ndcg@20"][4] = np.nan  # another seed has one
    found = Numbers(record).interval("LightGCN", "zero-shot", "ndcg@20")
    assert found.n == 56
    assert np.isfinite(np.array([found.low, found.mean, found.high], float)).all()


def test_what_is_absent_or_failed_says_why(numbers):
    full, _, _ = tables.results(numbers)
    assert row(full, "SGL") == Row("SGL", instead="needs a GPU of 40 GB", first=True)
    assert "LightGCN + random: seed 2 failed: the process that ran it died" in full.notes
    assert "LightGCN + RecLM: told from the nodes of the batch" in full.notes
    record = made_record(users=5, seeds=1, backbones=("LightGCN",))
    record.cells.clear()
    nothing = Numbers(record)
    assert row(tables.results(nothing)[0], "LightGCN + random").instead.startswith("seed 2 failed")
    assert row(tables.results(nothing)[0], "LightGCN").instead == "not measured here"
    assert tables.comparisons(nothing) == []


def test_comparisons_hold_the_tests_and_the_best_control(numbers):
    full, _ = tables.comparisons(numbers)
    found = numbers.differences["LightGCN + RecLM", "full-shot", "ndcg@20"]
    cells = [cell.text for cell in row(full, "LightGCN + RecLM").cells]
    assert cells[:3] == [
        "LightGCN",
        shown.change(found.change),
        shown.number(found.test.difference, sign=True),
    ]
    assert cells[-2:] == ["60", "3"]
    assert [one.cells[0].text for one in full.rows if one.below] == [
        "LightGCN + keywords",
        "BiasMF + keywords",
    ]


def test_activity_rows_hold_means_and_differences(numbers):
    full, _ = tables.activity(numbers)
    slices = numbers.activity("LightGCN + RecLM", "full-shot")
    assert full.head[1:] == tuple(one.name.replace("-", "–") for one in slices)
    assert [cell.text for cell in row(full, "LightGCN + RecLM").cells] == [
        shown.number(one.row.mean) for one in slices
    ]
    below = full.rows[full.rows.index(row(full, "LightGCN + RecLM")) + 1]
    assert below.name == "less LightGCN"
    assert below.cells[0].text.startswith(shown.number(slices[0].difference.mean, sign=True) + " (")


def test_cost_has_the_writers_time_and_the_gain(numbers):
    table = tables.cost(numbers, made_quality())
    assert table.head == (
        "", "line", "an epoch", "epochs", "a run", "its profiles", "full-shot", "zero-shot"
    )  # fmt: skip
    second = table.rows[1]
    assert (second.name, [cell.text for cell in second.cells[:5]]) == (
        "2",
        ["LightGCN + RecLM", "2.0 s", "30", "61 s", "7 min"],
    )
    assert "its profiles" not in tables.cost(numbers).head


def test_a_summary_counts_what_is_significant(numbers):
    assert numbers.verdicts[0].startswith(
        "Profiles helped in 4 of 4 comparisons (NDCG@20), hurt in 0, and beat"
    )
    assert not any("shuffled against" in text for text in numbers.verdicts)
    assert len(numbers.of_controls) == 2 * 3 * 2
    one = made_record(backbones=("LightGCN",))
    lines = tuple(line for line in one.about.rows if line.name in ("LightGCN", "LightGCN + RecLM"))
    protocols = one.about.protocols[:1]
    alone = Numbers(
        type(one)(one.about.model_copy(update={"rows": lines, "protocols": protocols}), one.cells)
    )
    assert len(alone.verdicts) == 1  # a single comparison needs no summary


def test_intervals_are_over_users_and_their_means_over_seeds(numbers):
    cells = [numbers.record.cells["BiasMF", seed, "zero-shot"] for seed in range(3)]
    found = numbers.interval("BiasMF", "zero-shot", "ndcg@20")
    users = np.mean([cell.values["ndcg@20"] for cell in cells], axis=0, dtype=float)
    half = 2.0009953 * users.std(ddof=1) / 60**0.5  # Student's t, 59 degrees of freedom
    assert (found.low, found.mean, found.high) == pytest.approx(
        (users.mean() - half, users.mean(), users.mean() + half), rel=1e-6
    )
    record = made_record(backbones=("LightGCN",))
    for (_, seed, _), cell in record.cells.items():
        cell.user_ids[:] = [
            f"{seed}-{user}" for user in range(60)
        ]  # other users by seed: nobody to average with
    assert Numbers(record).interval("LightGCN", "zero-shot", "ndcg@20").n == 180


def test_markdown_cannot_be_forged():
    forged = "x | y\n\n# z <script>alert(1)</script> `a` [b](https://c.org) \x1b[2J"
    kinds = []
    for name in (forged, "x"):
        numbers = Numbers(made_record(users=12, seeds=1, name=name, backbones=("LightGCN",)))
        page = markdown_page(numbers, made_examples(2, title=name), made_quality())
        kinds.append([one.type for one in PARSER.parse(page)])
        assert "\x1b" not in page
    assert kinds[0] == kinds[1]


def test_markdown_is_whole(numbers):
    page = markdown_page(numbers, made_examples(1), made_quality())
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [f"## {name}" for name in (
        "Results", "Comparisons", "By activity", "Cost and gain", "Profiles", "Users", "How it was made"
    )]  # fmt: skip
    assert "**(in the test part)**" in page
    assert "3f9a0c21d4" in page


def test_latex_is_escaped_and_balanced():
    name = r" \input{/etc/passwd} 50% & #1 _x_ ^ ~ $a$ {"
    page = latex_page(Numbers(made_record(users=12, seeds=2, name=name, backbones=("LightGCN",))))
    body = "\n".join(line for line in page.splitlines() if not line.startswith("%"))
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
            assert line.replace(r"\&", "").count("&") in (5, 10)  # of six columns, or of eleven


def test_a_marked_cell_in_both():
    table = Table(
        "t", ("", "m"), (Row("a", (TableCell(".1 ± .2", best=True, mark="*"),)), Row("b", instead="no & why"))
    )
    assert texts.markdown_table(table).splitlines()[2:] == [r"| a | **.1 ± .2**\* |", r"| b | no \& why |"]
    assert r"a & \textbf{.1 $\pm$ .2}$^{*}$ \\" in texts.latex_table(table, "c", "l")
    assert r"b & \multicolumn{1}{l}{\emph{no \& why}} \\" in texts.latex_table(table, "c", "l")


def test_a_script_is_never_bare(numbers):
    page = markdown_page(numbers, made_examples(1, title=SCRIPT))
    assert "<script" not in page.replace("\\<script", "")
