"""Reading Amazon Reviews 2023: ``python -m tools.perf.amazon``.

A million made reviews in the published format are written to a temporary folder (some 600 MB) and read. Nearly all of
them are kept, so that time and memory are those of real data of that size.
"""

import argparse
import json
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from reclm.data.readers.amazon import Amazon
from tools.perf.common import machine, peak_memory

NAME = "Movies_and_TV"
WORDS = np.array(
    ["good", "bad", "movie", "plot", "actor", "great", "love", "the", "and", "very", "isn't", "café"]
)
TEXTS = 3000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), options.reviews)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
        before, begun = peak_memory(), perf_counter()
        dataset = Amazon().read(Path(folder), Amazon.Config())
        seconds = perf_counter() - begun
    print(f"{machine()}; {options.reviews:,} reviews, {size:,.0f} MiB")
    print(
        f"read in {seconds:.0f} s; peak memory {peak_memory() / 2**30:.1f} GiB, "
        f"{before / 2**30:.1f} of it before reading"
    )
    kept = sum(len(part) for part in (dataset.train, dataset.valid, dataset.test))
    print(f"kept: {len(dataset.users):,} users, {len(dataset.items):,} items, {kept:,} interactions")


def _write(folder: Path, reviews: int) -> None:
    """Ten reviews a user and more of an item, a sixth with markup; metadata with odd prices and empty fields."""
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(WORDS, rng.integers(3, 120))) for _ in range(TEXTS)]
    texts = [
        json.dumps(text + "<br /><br />again &amp; again <b>so</b>" * (at % 6 == 0))
        for at, text in enumerate(said)
    ]
    users = rng.integers(max(reviews // 10, 1), size=reviews).tolist()
    items = rng.integers(max(reviews // 16, 1), size=reviews).tolist()
    with (folder / f"{NAME}.jsonl").open("w", encoding="utf-8") as file:
        for at, (user, item) in enumerate(zip(users, items, strict=True)):
            file.write(
                f'{{"rating": {1 + at % 5}.0, "title": "T", "text": {texts[at % TEXTS]}, "images": [], '
                f'"asin": "B{item:09d}", "parent_asin": "B{item:09d}", "user_id": "A{user:027d}", '
                f'"timestamp": {1588687728923 + at * 977}, "helpful_vote": 0, "verified_purchase": true}}\n'
            )
    with (folder / f"meta_{NAME}.jsonl").open("w", encoding="utf-8") as file:
        for item in range(max(reviews // 10, 1)):
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


if __name__ == "__main__":
    main()
