"""Print the table that chose the default recipe: validation NDCG@20 by it, and by what differs in one option.

    python -m tools.recipe ml-100k lastfm mind-release --home HOME

The test parts are not looked at. Trials are cached: called again, it goes on where it was.
"""

import argparse
from typing import Any

from reclm.benchmarks.experiment import execute
from reclm.benchmarks.suite import Row, Suite
from reclm.data.catalog import load_dataset
from reclm.data.dataset import Dataset
from reclm.folders import workspace
from reclm.intervals import number
from reclm.recommend.cold_validation import NEW

METRIC = "ndcg@20"
MANY = 4_000
"""Items that a step of the recipe tells a positive from."""
BACKBONES = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl")
CHANGES: dict[str, dict[str, Any]] = {
    "by the BPR loss": {"model": {"loss": "bpr", "score_temperature": 1.0, "unit": False}},
    "dot products": {"model": {"unit": False, "score_temperature": 1.0}},
    "temperature .1": {"model": {"score_temperature": 0.1}},
    "temperature .2": {"model": {"score_temperature": 0.2}},
    "no weight decay": {"train": {"weight_decay": 0.0}},
    "width 32": {"model": {"dim": 32}},
    "told from 2,000 items": {"model": {"softmax_items": 2_000}},
    "told from all items": {"model": {"softmax_items": 1_000_000}},
    "all IDs kept": {"model": {"id_dropout": 0.0}},
    "whole texts": {"model": {"text_dropout": 0.0}},
    "two text layers": {"model": {"text_layers": 2}},
}
"""What is changed for BiasMF."""
OF_MANY = ("told from 2,000 items", "told from all items")
OF_TEXT = ("all IDs kept", "whole texts", "two text layers")
OF_GRAPHS: dict[str, dict[str, Any]] = {
    "2 layers": {"model": {"layers": 2}},
    "no items as new": {"model": {"as_new": 0.0}},
}
"""What is changed for LightGCN."""


def rows(data: Dataset, names: list[str]) -> list[Row]:
    """Return a row for each backbone by its paper and by the recipe, and for each change."""
    found = []
    for name in names:
        found += [Row(name=f"{name}, its paper's options", backbone=name), Row(name=name, backbone=name)]
        changes = {"biasmf": CHANGES, "lightgcn": OF_GRAPHS}.get(name, {})
        for what, change in changes.items():
            needs_text, needs_many = what in (*OF_TEXT, "no items as new"), what in OF_MANY
            if (data.has_item_text or not needs_text) and (data.n_items > MANY or not needs_many):
                found.append(Row(name=f"{name}, {what}", backbone=name, **change))
    return found


def main() -> None:
    """Run all rows of all data sets with seed 0, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--backbone", action="append", choices=BACKBONES)
    parser.add_argument("--home")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    workspace(args.home)
    for name in args.datasets:
        data = load_dataset(name)
        values: dict[str, tuple[str, str, int, float]] = {}
        every = rows(data, args.backbone or list(BACKBONES))
        for recipe in ("paper", "default"):
            chosen = [row for row in every if row.name.endswith("paper's options") == (recipe == "paper")]
            model = {} if data.has_item_text or recipe == "default" else {"items": "id"}
            options: dict[str, Any] = {"metrics": (METRIC,), "recipe": recipe, "model": model}
            suite = Suite(title=name, dataset=name, seeds=1, rows=tuple(chosen), **options)
            for row, (record,) in execute(suite, data, jobs=args.jobs).records.items():
                if record.error is not None:
                    print(f"{row}: {record.error}")
                    continue
                reached = (number(record.validation.get(name)) for name in (METRIC, f"{NEW} {METRIC}"))
                values[row] = (*reached, len(record.history), record.seconds)
        print(
            f"\n| {name}, NDCG@20 | validation | validation, new items | epochs | seconds |\n|---|---|---|---|---|"
        )
        for row in every:
            if row.name in values:
                print("| {} | {} | {} | {} | {:.0f} |".format(row.name, *values[row.name]))


if __name__ == "__main__":
    main()
