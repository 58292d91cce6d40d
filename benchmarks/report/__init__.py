"""The report of a run: HTML, Markdown, LaTeX and CSV, all made from a :class:`~reclm.benchmarks.results.Record`."""
