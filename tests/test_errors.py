"""Messages of errors."""

import pytest

from reclm.errors import LONGEST, BadInput, one_line, unknown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("no column 'a\tb':\n\n  known: c", "no column 'a b': known: c"),
        ("\u202eabc\x1b[2J\x00", r"\u202eabc\x1b[2J\x00"),
        ("half a \ud83d pair, Nørd 猫 🎬", r"half a \ud83d pair, Nørd 猫 🎬"),
    ],
)
def test_a_message_is_one_printable_line(text: str, line: str) -> None:
    assert one_line(text) == str(BadInput(text)) == line


def test_a_long_message_keeps_its_beginning_and_the_remedy_at_its_end() -> None:
    line = one_line(f"bad value {'x' * 5_000}; --set dim=8")
    assert line.startswith("bad value xxx")
    assert line.endswith("xxx; --set dim=8")
    assert len(line) <= LONGEST + 3


def test_a_name_in_other_letters_is_offered_first() -> None:
    error = unknown("column", "user_id", ["item_id", "USER_ID", "user_idx"], "--set user_column=")
    assert error.remedy == "--set user_column=USER_ID"
