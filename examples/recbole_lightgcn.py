"""Profiles in RecBole's LightGCN, trained by RecBole's own trainer: ``python examples/recbole_lightgcn.py``.

RecBole 1.2.0 runs as it was released (``pip install -c constraints.txt '.[recbole]'`` in a clone). The data is made on
the spot. With your own:

    data = reclm.load_dataset("ml-100k")
    profiles = reclm.write_profiles(data, "zero-shot", limit=50)
    recbole_run("LightGCN", data, profiles, {"epochs": 50})
"""

from reclm.recbole.bridge import recbole_run
from reclm.testing import checkerboard, profiles

SETTINGS = {"epochs": 20, "embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 128, "topk": [6]}
"""RecBole's settings; what is not named here has RecBole's default."""


def main() -> None:
    """Train a plain and an augmented model; print RecBole's test metric, over all items, and ours of each protocol."""
    dataset = checkerboard(users=40, items=40, cold=12)
    for name, texts in (("plain", None), ("augmented", profiles(dataset))):
        run = recbole_run("LightGCN", dataset, texts, SETTINGS, metrics=["recall@6"])
        ours = (f"{protocol} recall@6 {of.mean()['recall@6']:.3f}" for protocol, of in run.results.items())
        print(f"{name:9} RecBole's recall@6 {run.metrics['recall@6']:.3f}", *ours, sep="   ")


if __name__ == "__main__":
    main()
