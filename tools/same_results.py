"""Check that the backbones' per-user results are still the same numbers, bit by bit.

``python -m tools.same_results write FOLDER`` trains the five backbones on ml-100k (seed 0, with and without keywords
profiles, 5 epochs) and keeps every user's values in FOLDER; ``python -m tools.same_results check FOLDER`` does so again
and compares. Both must run on one machine: processors differ in the order in which they add up.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BACKBONES = ("biasmf", "ncf", "lightgcn", "sgl", "simgcl")
KEYS = ["row", "seed", "protocol", "user_id"]
OPTIONS = ["--augment", "--profiler", "keywords", "--epochs", "5", "--seeds", "1"]


def per_user(backbone: str, home: Path) -> pa.Table:
    """Train a backbone and return the values of every row, protocol and user, in one order."""
    out = home / backbone
    command = [sys.executable, "-m", "reclm", "bench", "--backbone", backbone, *OPTIONS]
    subprocess.run(
        [*command, "--home", str(home), "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return ordered(pq.read_table(out / "users.parquet"))


def ordered(table: pa.Table) -> pa.Table:
    """Sort by row, seed, protocol and user; version 0.1 called a row a line."""
    names = ["row" if name == "line" else name for name in table.column_names]
    return table.rename_columns(names).sort_by([(name, "ascending") for name in KEYS])


def differences(before: pa.Table, after: pa.Table) -> dict[str, int]:
    """Count the values that differ, by column; null and nan equal themselves."""
    if before.num_rows != after.num_rows or any(
        before[name].cast(pa.string()) != after[name].cast(pa.string()) for name in KEYS
    ):
        return {"users": abs(before.num_rows - after.num_rows) or 1}
    counts = {}
    for name in sorted({*before.column_names} & {*after.column_names} - {*KEYS}):
        ours, theirs = before[name].cast(pa.float64()), after[name].cast(pa.float64())
        equal = pc.fill_null(pc.equal(ours, theirs), False)
        missing = pc.and_(pc.is_null(ours, nan_is_null=True), pc.is_null(theirs, nan_is_null=True))
        if count := pc.sum(pc.invert(pc.or_(equal, missing))).as_py():
            counts[name] = count
    return counts


def main(what: str, folder: Path) -> int:
    """Write or check; the exit code is the number of backbones that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    changed = 0
    with tempfile.TemporaryDirectory() as home:
        for backbone in BACKBONES:
            table = per_user(backbone, Path(home))
            kept = folder / f"{backbone}.parquet"
            if what == "write":
                pq.write_table(table, kept)
                print(f"{backbone}: {table.num_rows:,} rows kept in {kept}")
                continue
            counts = differences(pq.read_table(kept), table)
            changed += bool(counts)
            print(f"{backbone}: {table.num_rows:,} rows, {counts or 'equal'}")
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "check"):
        sys.exit("usage: python -m tools.same_results write|check FOLDER")
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
