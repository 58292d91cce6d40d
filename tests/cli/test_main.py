"""What every command shares: one line for a mistake, and for Ctrl-C."""

import sys

import pytest
import typer

import reclm.cli
from reclm.errors import ReclmError


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int | str | None:
    def fails() -> None:
        raise error

    app = typer.Typer()
    app.command()(fails)
    monkeypatch.setattr(reclm.cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["reclm"])
    with pytest.raises(SystemExit) as stop:
        reclm.cli.main()
    return stop.value.code


def test_ctrl_c_says_that_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ("stopped; what is done is kept: run the same command again to go on\n")


def test_an_error_that_quotes_data_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, ReclmError("unknown user '\x1b]0;pwn\x07'\nsecond line")) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown user ")
    assert error.count("\n") == 1
    assert error.strip().isprintable()
