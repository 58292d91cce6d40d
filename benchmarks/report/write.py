"""Write the report of a run: ``report.html``, ``report.md``, ``report.tex`` and ``results.csv``."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq

from reclm.benchmarks.report.extras import read_examples, read_profiles
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.pages import latex_page, markdown_page
from reclm.benchmarks.report.web import html_page
from reclm.benchmarks.results import Result
from reclm.console import progress_bar
from reclm.errors import ReclmError

FILES = ("report.html", "report.md", "report.tex", "results.csv")


def write(run: Path, out: Path | None = None, progress: bool = True) -> list[Path]:
    """Write the report of the run in ``run`` to ``out``, or beside it.

    Args:
        progress: show a progress bar.

    Returns:
        The files.

    Raises:
        ReclmError: if there is no run, it or one of its files is damaged, or ``out`` cannot be written.
    """
    record = Result.read(run)
    examples, quality = read_examples(run), read_profiles(run)
    folder = out or run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.csv.write_csv(pq.read_table(run / "results.parquet"), str(folder / FILES[-1]))
        numbers = Numbers(record)
        with progress_bar("report", total=3, show=progress) as advance:
            for name, text in (
                ("report.md", lambda: markdown_page(numbers, examples, quality)),
                ("report.tex", lambda: latex_page(numbers)),
                ("report.html", lambda: html_page(numbers, examples, quality)),
            ):
                advance(0, name)
                (folder / name).write_text(text(), encoding="utf-8", errors="backslashreplace")
                advance(1)
    except OSError as error:
        raise ReclmError(f"cannot write the report in {folder}: {error.strerror or error}") from error
    return [folder / name for name in FILES]
