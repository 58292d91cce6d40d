"""What a report says in words, whatever its format."""

from reclm.benchmarks.remarks import cautions
from reclm.benchmarks.report.numbers import Numbers

MARKS = (
    "Bold: the best of its column. *: differs from the line that it is compared with, p < .05 after Holm's correction. "
    "In brackets: how far ours is from the published number."
)
NOTHING = "Nothing was compared: no line that ran has another one that ran to be compared with."


def facts(numbers: Numbers) -> list[tuple[str, str]]:
    """How the run was made: a name and a text each."""
    about = numbers.about
    found = [
        ("data set", f"{about.dataset}, fingerprint {about.fingerprint}"),
        ("seeds", f"{about.seeds}"),
        ("epoch chosen by", about.selected_on or "nothing"),
        ("published numbers", about.source),
        ("environment", _plain(about.environment)),
        *(("remark", one) for one in cautions(numbers.record)),
        *(("failed", f"{one.row}, seed {one.seed}: {one.reason}") for one in about.failures),
    ]
    return [(name, text) for name, text in found if text]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
