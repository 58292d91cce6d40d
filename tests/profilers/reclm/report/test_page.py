import dataclasses
import io
import json
import re

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from reclm.errors import BadInput
from reclm.profilers.reclm.report import MEASURES, quality_table, report_page, save_report, terminal_table
from reclm.profilers.tuning.quality import HeldOut, compare_stages

PARSER = MarkdownIt("gfm-like", {"linkify": False})
FORGED = "User | x |\n\n# Results\n<script>alert(1)</script> `rm` [a](https://x.org) \x1b[2J"


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.splitlines()[2:]]


def headings(text: str) -> list[str]:
    tokens = PARSER.parse(text)
    return [tokens[at + 1].content for at, one in enumerate(tokens) if one.type == "heading_open"]


def test_a_row_a_stage_and_one_of_the_teacher_and_of_the_histories(comparison):
    before, kd, teacher, histories = rows(quality_table(comparison))
    shown = dict(zip(MEASURES, kd[1:], strict=True))
    assert kd[0] == "kd"
    assert shown["n"] == "3"
    assert shown["in format"].startswith("66.7% [20.8–93.9]")  # Wilson's interval of 2 of 3
    assert shown["words"] == "4.7"
    assert (shown["distinct-1"], shown["distinct-2"]) == (".833", "1.000")
    assert (shown["repeated"], shown["another's teacher"]) == ("0.0%", ".300")
    assert shown["teacher"].startswith(".900 [−.371–2.171]")
    assert (shown["neighbours"].split()[0], shown["strangers"]) == (".550", ".550")
    assert before[:3] == ["before", "3", "0.0% [0.0–56.1]"]
    # its words are "teacher of" and a name; Bob's profile by it is .8 from Cyd's and .6 from Ann's, who has no stranger
    assert teacher[:8] == ["the teacher", "2", "0.0% [0.0–65.8]", "3.0", ".667", ".750", "0.0%", "–"]
    assert teacher[8:] == ["–", ".800", ".600"]
    assert histories == ["histories", *[""] * 8, ".530", "−.250"]


def test_the_terminal_shows_the_same(comparison):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(comparison))
    text = console.export_text()
    assert "profiles of 3 held-out users by stage" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["before", "kd", "the", "teacher", "histories"] in lines
    assert ["in", "format", "0.0%", "66.7%", "0.0%"] in lines
    assert ["0.0–56.1", "20.8–93.9", "0.0–65.8"] in lines
    assert ["neighbours", "1.000", ".550", ".800", ".530"] in lines


def test_malformed_profiles_are_named_with_an_example(comparison, vectors_of):
    text = report_page(comparison, "RecLM")
    assert "**kd**: 1 of 3.\n\n| fault | first of them | text | profiles |" in text
    assert (
        "| not of the form 'User identity: a, b; User interests: x, y.' | dan | no profile | 1 |"
        in text.split("**kd**")[1]
    )
    well = {"ann": comparison.texts["kd"]["ann"]}
    fine = compare_stages({"kd": well, "ppo": {}}, HeldOut("user", ("ann",), phrases=1), vectors_of())
    text = report_page(fine, "RecLM")
    assert "**kd**: none of 1." in text
    assert "**ppo**: no profile." in text


def test_the_same_subjects_side_by_side(comparison):
    text = report_page(comparison, "RecLM on films", remarks=["PPO ran away at step 7"])
    assert headings(text)[-3:] == ["User ann", "User bob", "User dan"]
    example = text.split("### User ann")[1].split("### User bob")[0]
    assert "- Alien\n- Heat\n" in example
    assert "| teacher | teacher of ann |" in example
    assert "| before | no profile |" in example
    assert "| kd | User identity: x; User interests: a. |" in example
    assert "- PPO ran away at step 7" in text


def test_examples_are_spread_over_those_whom_all_stages_wrote_for(vectors_of):
    many = {f"u{at}": "text" for at in range(10)}
    some = {name: text for name, text in many.items() if name not in ("u0", "u1")}
    held_out = HeldOut("item", tuple(many))
    found = compare_stages({"before": many, "kd": some}, held_out, vectors_of())
    assert found.spread(4) == ["u2", "u4", "u6", "u8"]
    assert found.spread(100) == list(some)
    assert compare_stages({}, HeldOut("item", ()), vectors_of()).spread(3) == []


def test_long_texts_and_histories_are_cut(vectors_of):
    held_out = HeldOut("user", ("ann",), histories={"ann": "\n".join(["x" * 1000] * 30)})
    found = compare_stages({"before": {"ann": "y" * 1000}}, held_out, vectors_of())
    text = report_page(found, "RecLM")
    assert "x" * 159 + "…" in text
    assert "- and 20 more" in text
    assert "y" * 399 + "…" in text
    assert max(map(len, text.splitlines())) < 700


def test_text_that_comes_from_data_is_no_markdown(vectors_of):
    held_out = HeldOut("user", (FORGED,), {FORGED: FORGED}, {FORGED: FORGED})
    forged = compare_stages({FORGED: {FORGED: FORGED}}, held_out, vectors_of({FORGED: (1, 0)}))
    plain = compare_stages(
        {"x": {"x": "x"}}, HeldOut("user", ("x",), {"x": "x"}, {"x": "x\nx\nx"}), vectors_of({"x": (1, 0)})
    )
    text, other = report_page(forged, FORGED, remarks=[FORGED]), report_page(plain, "x", remarks=["x"])
    kinds = [[one.type for one in PARSER.parse(some)] for some in (text, other)]
    assert kinds[0] == kinds[1]
    inline = [child.type for one in PARSER.parse(text) for child in one.children or []]
    assert set(inline) <= {"text", "text_special", "strong_open", "strong_close"}
    assert "\x1b" not in text
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(compare_stages({"[red]x\x1b[2J": {}}, HeldOut("user", ()), vectors_of())))
    assert re.search(r"\[red\]x\\x1b\[2J", console.export_text())


def test_nothing_was_written(tmp_path, vectors_of):
    nothing = compare_stages({"kd": {}}, HeldOut("user", ("ann",)), vectors_of())
    assert rows(quality_table(nothing)) == [["kd", "0", *["–"] * 9]]
    save_report(nothing, tmp_path, "RecLM")
    assert "**kd**: no profile." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_saved_numbers_are_the_shown_ones(comparison, tmp_path):
    save_report(comparison, tmp_path / "new" / "report", "RecLM", remarks=["one"])
    folder = tmp_path / "new" / "report"
    assert (folder / "report.md").read_text(encoding="utf-8") == report_page(
        comparison, "RecLM", remarks=["one"]
    )
    numbers = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [one["stage"] for one in numbers["stages"]] == ["before", "kd"]
    assert numbers["stages"][1]["compliance"]["mean"] == 2 / 3
    assert numbers["stages"][1] == dataclasses.asdict(comparison.quality[1])
    assert numbers["teacher"]["neighbours"]["n"] == 1
    assert (numbers["subjects"], numbers["remarks"]) == (3, ["one"])


def test_a_folder_that_cannot_be_written(comparison, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match="file/report"):
        save_report(comparison, tmp_path / "file" / "report", "RecLM")
