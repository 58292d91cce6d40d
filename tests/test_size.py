"""The size of the product: few enough files, each short enough, to be read."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = [
    path for room in ("reclm", "backbones", "profilers", "benchmarks") for path in (ROOT / room).rglob("*.py")
]
LINES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in PRODUCT}


def test_the_product_has_at_most_180_files_and_32_000_lines() -> None:
    assert len(LINES) <= 180
    assert sum(LINES.values()) <= 32_000


def test_no_file_of_the_product_has_more_than_400_lines() -> None:
    assert {name: lines for name, lines in LINES.items() if lines > 400} == {}
