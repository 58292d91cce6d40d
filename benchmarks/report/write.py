"""Write the report of a run: ``report.html``, ``report.md``, ``report.tex`` and ``results.csv``."""

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq

from reclm.benchmarks.record import Record
from reclm.benchmarks.report.extras import read_examples, read_profiles
from reclm.benchmarks.report.numbers import Numbers
from reclm.benchmarks.report.pages import latex_page, markdown_page
from reclm.benchmarks.report.web import html_page
from reclm.errors import ReclmError

FILES = ("report.html", "report.md", "report.tex", "results.csv")


def write(run: Path, out: Path | None = None) -> list[Path]:
    """Write the report of the run in ``run`` to ``out``, or beside it.

    Returns:
        The files.

    Raises:
        ReclmError: if there is no run, it or one of its files is damaged, or ``out`` cannot be written.
    """
    record = Record.read(run)
    examples, quality = read_examples(run), read_profiles(run)
    folder = out or run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = Numbers(record)
        texts = (
            html_page(numbers, examples, quality),
            markdown_page(numbers, examples, quality),
            latex_page(numbers),
        )
        for name, text in zip(FILES, texts, strict=False):
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        pyarrow.csv.write_csv(pq.read_table(run / "results.parquet"), str(folder / FILES[-1]))
    except OSError as error:
        raise ReclmError(f"cannot write the report in {folder}: {error.strerror or error}") from error
    return [folder / name for name in FILES]
