"""What is shown is shown as it is written, and commands neither terminal nor page."""

import pytest

from reclm.console import literal, printable

TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


@pytest.mark.parametrize("mark", [*TURNS, "\x1b", "\x00", "\x85", "\u2028", "\ud83d"])
def test_fault_39_no_character_turns_a_line_around(mark: str) -> None:
    for shown in (printable(f"a{mark}b"), literal(f"a{mark}b")):
        assert mark not in shown
        shown.encode()
    assert printable(f"a{mark}b") == f"a{mark!r}b".replace("'", "")


def test_other_scripts_are_shown_as_they_are() -> None:
    assert printable("Nørd 猫 שלום é") == "Nørd 猫 שלום é"
