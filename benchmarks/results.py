"""A comparison as files: every number a table shows can be computed again from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reclm.benchmarks.compare import Comparison
from reclm.environment import environment


def save(comparison: Comparison, folder: Path, about: dict[str, Any]) -> None:
    """Write a comparison to ``folder``.

    - ``results.parquet``: one row a variant, seed, protocol and metric;
    - ``users.parquet``: the same for every single user (``user_id``, one column a metric);
    - ``history.parquet``: loss and selection metric of every epoch;
    - ``summary.json``: plan, data, environment, means, changes and tests.

    Args:
        about: what else the summary should say (where the profiles came from, say).
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, users, history = [], [], []
    for run in comparison.runs:
        key = {"variant": run.variant, "seed": run.seed}
        history += [{**key, **row} for row in run.fit.history]
        for protocol, result in run.results.items():
            key["protocol"] = protocol
            best = {"best_epoch": run.best_epoch[protocol], "seconds_per_epoch": run.fit.seconds_per_epoch()}
            rows += [{**key, "metric": name, "value": value, **best} for name, value in result.mean().items()]
            ids = comparison.dataset.users.ids(result.users)
            fixed = {name: pa.array([value] * len(ids)) for name, value in key.items()}
            users.append(pa.table({**fixed, "user_id": ids, **result.values}))
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    pq.write_table(pa.concat_tables(users), folder / "users.parquet")
    pq.write_table(pa.Table.from_pylist(history), folder / "history.parquet")
    (folder / "summary.json").write_text(json.dumps(summary(comparison, about), indent=2), encoding="utf-8")


def summary(comparison: Comparison, about: dict[str, Any]) -> dict[str, Any]:
    """The comparison in plain values; a number that does not exist (no user to average over) is null."""
    dataset = comparison.dataset
    protocols: dict[str, Any] = {}
    for protocol, task in comparison.tasks.items():
        means = {
            variant: {
                metric: {"mean": _number(values.mean()), "seeds": [_number(value) for value in values]}
                for metric in comparison.plan.metrics
                for values in [comparison.values(variant, protocol, metric)]
            }
            for variant in comparison.variants()
        }
        tests = {}
        if {"base", "augment"} <= set(comparison.variants()):
            for metric in comparison.plan.metrics:
                test = comparison.test(protocol, metric)
                tests[metric] = {name: _number(value) for name, value in vars(test).items()}
        protocols[protocol] = {
            "candidates": len(task.candidates),
            "users": len(task.users),
            "variants": means,
            "augment - base": tests,
        }
    return {
        **about,
        "plan": comparison.plan.model_dump(mode="json"),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "selected on": "test (the paper's selection: it flatters)"
        if comparison.plan.select_on == "test"
        else "valid",
        "protocols": protocols,
        "environment": environment(),
    }


def _number(value: float | np.floating) -> float | None:
    return None if np.isnan(value) else float(value)
