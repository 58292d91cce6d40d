"""Profiles in RecBole's LightGCN, trained by RecBole's own trainer: ``python examples/recbole_lightgcn.py``.

RecBole 1.2.0 runs as it was released (``pip install -c constraints.txt '.[recbole]'`` in a clone). The data is made on
the spot. With your own, written by ``reclm profile --dataset NAME``:

    dataset = reclm.data.load(NAME, Workspace.at())
    recbole_run("LightGCN", dataset, Path("reclm-home/profiles/NAME/WRITER"), {"epochs": 50}, cold="text")
"""

from reclm.recbole.bridge import recbole_run
from reclm.testing import checkerboard, profiles

SETTINGS = {"epochs": 20, "embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 128, "topk": [6]}
"""RecBole's settings; what is not named here has RecBole's default."""


def main() -> None:
    """Plain and augmented: RecBole's test metrics, over all items, and ours of each protocol."""
    dataset = checkerboard(users=40, items=40, cold=12)
    for name, given in (("plain", None), ("augmented", profiles(dataset))):
        options = {"cold": "text"} if given else {}
        run = recbole_run("LightGCN", dataset, given, SETTINGS, metrics=["recall@6"], **options)
        ours = (f"{one} recall@6 {found.mean()['recall@6']:.3f}" for one, found in run.results.items())
        print(f"{name:9} RecBole's recall@6 {run.metrics['recall@6']:.3f}", *ours, sep="   ")


if __name__ == "__main__":
    main()
