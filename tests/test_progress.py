"""Progress bars where there is no terminal."""

import pytest
import rich.console

from reclm.console import progress_bar


def test_a_notebook_without_widgets_has_a_bar_that_is_written_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    with progress_bar("reading", 2) as advance:
        advance(2)
    shown = capsys.readouterr().err
    assert "\r" in shown
    assert "2/2" in shown
