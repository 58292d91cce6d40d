"""A made-up run: two backbones with and without profiles and with controls, an absent row, a seed that failed."""

import numpy as np

from reclm.benchmarks.result_files import Example, Quality
from reclm.benchmarks.results import Failure, ProtocolInfo, Result, ResultRow, RunInfo, TrialResult
from reclm.recommend.check import DataCheck

METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40", "coverage@20")
VARIANTS = {"": 0.0, " + RecLM": 0.06, " + shuffled": -0.01, " + random": -0.015, " + keywords": 0.03}
SCRIPT = "<script>document.title = 'taken'</script>"


def made_result(
    users: int = 60, seeds: int = 3, name: str = "", backbones: tuple[str, ...] = ("LightGCN", "BiasMF")
) -> Result:
    """A result of ``users``; ``name`` is put into every text that data could bring in."""
    rows = [row for backbone in backbones for row in _rows(backbone, name)]
    rows.append(ResultRow(name="SGL", backbone="SGL", absent=f"needs a GPU of 40 GB{name}"))
    about = RunInfo(
        title=f"RecLM's Base and Augment on MIND{name}",
        dataset=f"mind-release{name}",
        fingerprint="3f9a0c21d4",
        source="RecLM (arXiv 2412.19302), table 1",
        selected_on="the validation set, by ndcg@20",
        seeds=seeds,
        metrics=METRICS,
        protocols=(
            ProtocolInfo(name=f"full-shot{name}", users=users, candidates=1_682),
            ProtocolInfo(name="zero-shot", users=users, candidates=210),
            ProtocolInfo(name="cold items", users=users, candidates=1_682, part_of=f"full-shot{name}"),
        ),
        rows=tuple(rows),
        remarks=(f"item text is embedded by MiniLM here, by BERT in the paper{name}",),
        failures=(Failure(row=rows[3].name, seed=2, reason=f"the process that ran it died{name}"),),
        suite={"title": "RecLM's table 1", "rows": [{"name": row.name} for row in rows]},
        environment={"python": "3.11.9", "cores": 2, "gpus": ["none"], "torch": "2.13.0"},
    )
    trials, history = {}, {}
    for at, row in enumerate(rows[:-1]):
        for seed in range(seeds):
            if (row.name, seed) == (rows[3].name, 2):
                continue
            history[row.name, seed] = _history(at, seed)
            for protocol in about.protocols:
                trials[row.name, seed, protocol.name] = _trial(
                    users, at, seed, protocol.part_of is not None or protocol.name == "zero-shot"
                )
    return Result(about, trials, history)


def _rows(backbone: str, name: str) -> list[ResultRow]:
    published = {f"full-shot{name}": {"recall@20": 0.0389, "ndcg@20": 0.015}}
    found = []
    for variant in VARIANTS:
        augmented = bool(variant)
        found.append(
            ResultRow(
                name=f"{backbone}{variant}{name}",
                backbone=backbone,
                against=(f"{backbone}{name}",) if augmented else (),
                control=variant[3:] if variant not in ("", " + RecLM") else None,
                writer="SmolLM2-135M, tuned" if variant == " + RecLM" else None,
                kinds=("user", "item") if augmented else (),
                coverage={"user": (300, 943), "item": (1_682, 1_682)} if augmented else {},
                published=published if not augmented else {},
                note=f"drawn from the nodes of the batch{name}" if variant == " + RecLM" else "",
            )
        )
    return found


def _trial(users: int, at: int, seed: int, cold: bool) -> TrialResult:
    rng = np.random.default_rng(7)  # the same users for all: the same values are easy for all rows
    ease = rng.gamma(1.5, 0.05, users) * (0.4 if cold else 1)
    activity = rng.geometric(0.04, users) + 2
    helps = rng.normal(1, 0.8, users)  # some more than others
    gain = 1 + list(VARIANTS.values())[at % len(VARIANTS)] * helps - 0.2 * (at >= len(VARIANTS))
    noise = np.random.default_rng((at, seed)).normal(0, 0.0002, users)
    base = np.clip(ease * gain + noise, 0, 1)
    scale = {"recall@20": 1.6, "ndcg@20": 0.8, "recall@40": 2.3, "ndcg@40": 1.0}
    return TrialResult(
        user_ids=np.array([f"u{user}" for user in range(users)], object),
        activity=activity,
        values={metric: (base * scale[metric]).astype(np.float32) for metric in scale},
        overall={"coverage@20": 0.31 + at / 100},
        best_epoch=20,
        epochs=30,
        seconds=52.0 + 9 * (at % len(VARIANTS)) + 40 * (at >= len(VARIANTS)),
        epoch_seconds=1.7 + 0.3 * (at % len(VARIANTS)),
    )


def _history(at: int, seed: int) -> list[dict[str, float]]:
    epochs = np.arange(1, 31)
    wobble = np.random.default_rng((at, seed)).normal(0, 0.0006, 30)
    curve = 0.06 * (1 - np.exp(-epochs / (6 + at))) + wobble
    return [
        {
            "epoch": int(epoch),
            "loss": 0.69 * float(np.exp(-epoch / (9 + at))),
            "seconds": 1.7,
            "ndcg@20": float(one),
        }
        for epoch, one in zip(epochs, curve, strict=True)
    ]


def made_examples(count: int = 3, title: str = SCRIPT) -> list[Example]:
    """Users whose newest item has a title that must not run."""
    items = [
        "The Godfather (1972). Crime, Drama",
        "Wallace & Gromit: A Close Shave (1995). Animation",
        "Chunking Express (1994). Drama, Mystery, Romance",
        "Die Hard (1988). Action, Thriller",
        "Crouching Tiger, Hidden Dragon: a title that is longer than most (2000). Action, Drama, Romance",
    ]
    rows = ["LightGCN", "LightGCN + RecLM", "LightGCN + shuffled"]
    return [
        Example(
            user_id=f"{100 + at}",
            history=(title, *items),
            profile=f"User identity: film lover; User interests: crime drama, {title}.\nLikes the 1990s.",
            top=dict.fromkeys(rows, (*items[at % 3 :], title)),
            hits={rows[1]: tuple(place == 1 for place in range(len(items[at % 3 :]) + 1))},
        )
        for at in range(count)
    ]


def made_check(title: str = SCRIPT) -> DataCheck:
    """A data set whose new items have no text."""
    return DataCheck(
        dataset=title,
        reach={title: {"EASE": 0.1758, "popularity": 0.1436}, "full-shot": {"EASE": 0.0213}},
        histories=f"943 users are tested; {title}.",
        findings=(f"full-shot: what users did before tells nearly nothing; {title}.",),
        answer="No profile can help much.",
    )


def made_quality() -> list[Quality]:
    """Two writers, one of which was not measured in full."""
    return [
        Quality(
            writer="SmolLM2-135M, tuned",
            kind="user",
            profiles=943,
            distinct=921,
            words=31.4,
            in_format=0.982,
            prompt_tokens=281_000,
            new_tokens=44_100,
            seconds=412,
        ),
        Quality(writer="keywords", kind="user", profiles=943, words=8),
    ]
