"""The report of a run: HTML, Markdown, LaTeX, terminal text and CSV, all of the same tables."""

from reclm.benchmarks.report.page import FILES, write_report
from reclm.benchmarks.report.tables import Cell, Row, Table

__all__ = ["FILES", "Cell", "Row", "Table", "write_report"]
