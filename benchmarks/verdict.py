"""Did the profiles help?"""

from reclm.benchmarks.record import Record
from reclm.benchmarks.significance import paired_t
from reclm.ranking.metrics import title


def verdicts(record: Record) -> list[str]:
    """One sentence for each line that is compared with another, and protocol."""
    said = []
    metric = record.headline
    for line in record.about.lines:
        if line.against is None or line.absent:
            continue
        for protocol in record.about.protocols:
            before, after = record.paired(line.against, line.name, protocol.name, metric)
            if not before.size:
                said.append(f"{protocol.name}: nobody to evaluate")
                continue
            test = paired_t(before.mean(0), after.mean(0))
            word = (
                "no significant difference"
                if test.p >= 0.05
                else "the profiles helped"
                if test.difference > 0
                else "the profiles hurt"
            )
            said.append(f"{protocol.name}: {word} in {title(metric)} ({line.name}, p = {test.p:.3f})")
    return said
