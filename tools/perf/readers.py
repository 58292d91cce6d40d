"""Reading raw files: ``python -m tools.perf.readers``.

Made files are written to a temporary folder and read, each in a process of its own: a million rows of CSV, plain and
quoted, and a million Amazon reviews in the published format (some 800 MB), with a few malformed lines. Nearly all of
them are kept, so that time and memory are those of real data of that size. ``--beside CLONE`` reads them with the code
of another clone, too (before 0.2 the readers were in ``reclm.data``), and gives the ratios.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tools.perf.common import machine

WORDS = np.array(
    ["good", "bad", "movie", "plot", "actor", "great", "love", "the", "and", "very", "isn't", "café"]
)
TEXTS = 3000
CATEGORY = "Movies_and_TV"
CHILD = """
import json, resource, sys, time
from importlib import import_module
from pathlib import Path
module, name, source = sys.argv[1:]
try:
    reader = getattr(import_module("reclm.data.readers." + module), name)()
except ModuleNotFoundError:
    reader = getattr(import_module("reclm.data." + module), name)()
started, cpu = time.perf_counter(), time.process_time()
data = reader.read(Path(source), reader.Config())
print(json.dumps({
    "seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu,
    "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "fingerprint": data.fingerprint,
    "kept": len(data.train) + len(data.valid) + len(data.test),
    "malformed": data.report.dropped.get("malformed line", 0), "first": data.report.malformed[:3],
}))
"""
"""Reads one source and prints what it cost; runs with the code of any version."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="the best of so many is told")
    parser.add_argument("--beside", type=Path, help="another clone with its .venv")
    options = parser.parse_args()
    print(f"{machine()}; {options.rows:,} rows")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case, (module, reader, write) in CASES.items():
            source = write(folder, options.rows)
            own = _best(Path.cwd(), module, reader, source, options.runs)
            print(f"{case}: {_sentence(own)}; {own['kept']:,} kept, {own['malformed']} malformed")
            for line in own["first"]:
                print(f"    {line.replace(name, '')}")
            if options.beside:
                other = _best(options.beside.resolve(), module, reader, source, options.runs)
                ratios = ", ".join(f"{key} {own[key] / other[key]:.2f}" for key in ("seconds", "cpu", "MiB"))
                same = "same" if own["fingerprint"] == other["fingerprint"] else "another"
                print(f"    {options.beside}: {_sentence(other)}; ratios: {ratios}; {same} fingerprint")


def _best(clone: Path, module: str, reader: str, source: Path, runs: int) -> dict:
    command = [str(clone / ".venv/bin/python"), "-c", CHILD, module, reader, str(source)]
    costs = []
    for _ in range(runs):
        done = subprocess.run(
            command, check=False, cwd=clone, env={"PYTHONPATH": str(clone)}, capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        costs.append(json.loads(done.stdout.splitlines()[-1]))
    return min(costs, key=lambda cost: cost["seconds"]) | {"MiB": min(cost["MiB"] for cost in costs)}


def _sentence(cost: dict) -> str:
    return f"{cost['seconds']:.1f} s, {cost['cpu']:.1f} s of processors, peak {cost['MiB']:,.0f} MiB"


def _log(rows: int) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(0)
    columns = [rng.integers(high, size=rows) for high in (max(rows // 10, 1), max(rows // 50, 1), 5, 10**8)]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def write_plain(folder: Path, rows: int) -> Path:
    """Write a log without quotes; one line in 100,000 has a field too few."""
    path = folder / "plain.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id,item_id,rating,timestamp\n")
        for at, (user, item, rating, time) in enumerate(_log(rows)):
            file.write(f"user{user:06d},item{item:05d},{1 + rating},{1_500_000_000 + time}\n")
            if at % 100_000 == 50_000:
                file.write(f"user{user:06d},item\n")
    return path


def write_quoted(folder: Path, rows: int) -> Path:
    """Write a log with quoted values, a tenth of which hold a line break."""
    path = folder / "quoted.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write('"user_id","item_id","rating","timestamp","review"\n')
        for at, (user, item, rating, time) in enumerate(_log(rows)):
            text = f'a ""fine"" film, it is{chr(10) * (at % 10 == 0)} number {at}'
            file.write(
                f'"user{user:06d}","item{item:05d}","{1 + rating}","{1_500_000_000 + time}","{text}"\n'
            )
    return path


def write_amazon(folder: Path, rows: int) -> Path:
    """Write ten reviews a user and more of an item, a sixth with markup; metadata with odd prices and empty fields."""
    folder = folder / "amazon"
    folder.mkdir()
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(WORDS, rng.integers(3, 120))) for _ in range(TEXTS)]
    markup = "<br /><br />again &amp; again <b>so</b>"
    texts = [json.dumps(text + markup * (at % 6 == 0)) for at, text in enumerate(said)]
    users = rng.integers(max(rows // 10, 1), size=rows).tolist()
    items = rng.integers(max(rows // 16, 1), size=rows).tolist()
    with (folder / f"{CATEGORY}.jsonl").open("w", encoding="utf-8") as file:
        for at, (user, item) in enumerate(zip(users, items, strict=True)):
            file.write(
                f'{{"rating": {1 + at % 5}.0, "title": "T", "text": {texts[at % TEXTS]}, "images": [], '
                f'"asin": "B{item:09d}", "parent_asin": "B{item:09d}", "user_id": "A{user:027d}", '
                f'"timestamp": {1588687728923 + at * 977}, "helpful_vote": 0, "verified_purchase": true}}\n'
            )
            if at % 100_000 == 50_000:
                file.write('{"rating": 5.0, "title": \n')
    with (folder / f"meta_{CATEGORY}.jsonl").open("w", encoding="utf-8") as file:
        for item in range(max(rows // 10, 1)):
            about = {
                "main_category": "Movies & TV",
                "title": f"Film {item}",
                "average_rating": 4.1,
                "rating_number": 5,
                "features": [said[item % TEXTS]] * 2,
                "description": ["<p>A <b>big</b> one", said[(item + 7) % TEXTS]],
                "price": [None, 12.99, "from 3.5", "—", 7][item % 5],
                "images": [{"thumb": "x" * 80, "large": "y" * 80}] * 4,
                "videos": [],
                "store": None,
                "categories": ["Movies & TV", "Drama"],
                "details": {"price": 3},
                "parent_asin": f"B{item:09d}",
                "bought_together": None,
            }
            file.write(json.dumps(about) + "\n")
    return folder


CASES = {
    "plain CSV": ("table", "Table", write_plain),
    "quoted CSV": ("table", "Table", write_quoted),
    "Amazon reviews": ("amazon", "Amazon", write_amazon),
}


if __name__ == "__main__":
    main()
