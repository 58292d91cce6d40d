"""Trials of ``fusion="auto"``: made of the trials of each way, which other rows share, protocol by protocol."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.torch import load_file
from torch import Tensor

from reclm.benchmarks.features import Features
from reclm.benchmarks.results import KEPT
from reclm.benchmarks.trial import VALIDATION, Layout, TrialCache, TrialRecord
from reclm.errors import ReclmError
from reclm.recommend.auto_fusion import Way, best_way, ways
from reclm.recommend.base import Inputs
from reclm.recommend.cold_validation import NEW

if TYPE_CHECKING:
    from reclm.benchmarks.pool import Trial


def parts(trial: "Trial", features: Features) -> "dict[Way, Trial]":
    """Return a trial for each way; the plain one is that of the base."""
    options = trial.plan.profiles
    tried: dict[Way, Trial] = {}
    for way, inputs in ways(features.inputs).items():
        profiles = options.model_copy(update={"fusion": way}) if options and way != "none" else None
        plan = trial.plan.model_copy(update={"profiles": profiles})
        tried[way] = replace(trial, plan=plan, features=replace(features, inputs=inputs))
    return tried


def compose(
    trial: "Trial", tried: "Mapping[Way, Trial]", cache: TrialCache, layout: Layout
) -> tuple[dict[str, Any], pa.Table, dict[str, Tensor]]:
    """Return the record's fields, the users' values and the weights of a trial, of those that were ``tried``.

    Each protocol has the results of the way that its validation users chose. What is single, weights and history, is
    the first protocol's.
    """
    records: dict[Way, TrialRecord] = {}
    for way, part in tried.items():
        record = cache.get(part.key)
        if record is None or record.error is not None:
            raise ReclmError(f"fusion {way}: {record.error if record else 'its trial was removed'}")
        records[way] = record
    tables: dict[Way, pa.Table] = {way: cache.users(part.key) for way, part in tried.items()}
    kept: dict[str, Way] = {
        protocol: best_way(_validation(trial, tables, protocol, layout)) for protocol in layout.tasks
    }
    way_of: dict[str, Way] = {
        part: kept[whole] for whole in kept for part in (whole, *layout.subgroups[whole])
    }
    first = next(iter(kept.values()))
    fields: dict[str, Any] = {
        "means": {part: records[way].means[part] for part, way in way_of.items()},
        "best_epoch": {part: records[way].best_epoch[part] for part, way in way_of.items()},
        "top": {protocol: records[way].top[protocol] for protocol, way in kept.items()},
        "history": records[first].history,
        "validation": records[first].validation,
        "seconds": sum(record.seconds for record in records.values()),
        "chosen": {KEPT + protocol: way for protocol, way in kept.items()},
    }
    rows = [tables[way].filter(pc.equal(tables[way]["protocol"], part)) for part, way in way_of.items()]
    weights = load_file(cache.weights_of(tried[first].key)) if cache.weights else {}
    return fields, pa.concat_tables(rows, promote_options="default"), weights


def _validation(
    trial: "Trial", tables: Mapping[Way, pa.Table], protocol: str, layout: Layout
) -> dict[Way, np.ndarray]:
    """Return the values of the validation users that choose for a protocol, by way.

    New items choose for what ranks new ones, if every way can rank them.
    """
    train, cold = trial.plan.train, layout.cold(trial.plan.train.cold_validation)
    name = VALIDATION + (NEW if cold and protocol in cold[0].protocols else "valid")
    if any(name not in pc.unique(table["protocol"]).to_pylist() for table in tables.values()):
        name = VALIDATION + "valid"
    values: dict[Way, np.ndarray] = {}
    for way, table in tables.items():
        values[way] = table.filter(pc.equal(table["protocol"], name))[train.metric].to_numpy()
    return values


def saved_way(inputs: Inputs, chosen: Mapping[str, Any]) -> tuple[Inputs, dict[str, Any]]:
    """Return the inputs of the model whose weights a trial has, and the options that were chosen for it.

    Of an automatic row that is the first protocol's.
    """
    if inputs.fusion != "auto":
        return inputs.by(inputs.fusion), {}
    way: Way = next(value for name, value in chosen.items() if name.startswith(KEPT))
    return ways(inputs)[way], {"fusion": way}
