"""Where the time of LangPTune goes: ``python -m tools.perf.langptune``.

One RLSO update and one batch of contrastive learning, by part, with as many candidate items as the paper's data have;
words are made up, sizes are not. Items are embedded anew once a round: their time stands apart.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.llm.models import find_model
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.pipeline import Alternation, LangPTunePipeline
from reclm.text.encoder import TextEncoder
from tools.perf.common import machine

HISTORY, USERS = 4, 200


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="as for reclm tune")
    parser.add_argument("--encoder", default=None, help="as for reclm tune")
    parser.add_argument("--items", type=int, default=10_533, help="the paper's Amazon-Movie-TV has 10,533")
    parser.add_argument("--words", type=int, default=30, help="of an item's text")
    parser.add_argument("--batch", type=int, default=64, help="prompts of an update, pairs of a batch")
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tuning = LangPTunePipeline(
            _view(options.items, options.words),
            _config(options.batch, options.new_tokens),
            find_model(options.model),
            Path(folder),
            encoder=TextEncoder(options.encoder),
            progress=False,
        )
        _measure(Alternation(tuning), options.batch)


def _measure(alternation: Alternation, batch: int) -> None:
    ranker, rlso, cl = alternation.ranker, alternation.rlso, alternation.cl
    assert rlso is not None
    assert cl is not None
    tuning = alternation.tuning
    embed, embedding = ranker.embed, 0.0

    def timed(texts: Sequence[str]) -> Any:
        nonlocal embedding
        begun = perf_counter()
        vectors = embed(texts)
        embedding += perf_counter() - begun
        return vectors

    ranker.embed = timed
    _ = ranker.items
    refresh, embedding = embedding, 0.0
    step = rlso.train_step()
    embedded, ranked = embedding, step["reward_seconds"] - embedding
    rows = tuning.train_rows[:batch].tolist()
    profiles, metrics = alternation._user_texts(rows, list(range(batch)), None)
    items = tuning.sessions.future[rows, 0]
    metrics |= cl.train_step(profiles, [tuning.histories.lines[item] for item in items.tolist()], items)
    tokens = f"prompts of {np.mean([len(one) for one in rlso.prompts]):.0f} tokens"
    print(f"{machine()}; {tuning.model.name}, {tuning.encoder.name}, {batch} {tokens}, two answers each")
    _table(
        "RLSO update",
        {
            "roll-out": step["rollout_seconds"],
            "embedding the profiles": embedded,
            "ranking": ranked,
            "scoring": step["score_seconds"],
            "learning": step["update_seconds"],
        },
        f"{step['rollout_tokens']:.0f} tokens/s rolled out",
    )
    _table(
        "contrastive batch",
        {"roll-out": metrics["rollout_seconds"], "embedding and learning": metrics["update_seconds"]},
        f"{metrics['rollout_tokens']:.0f} tokens/s rolled out, "
        f"{metrics['update_tokens'] / metrics['update_seconds']:.0f} tokens/s learned from",
    )
    print(f"{len(tuning.sessions.items):,} items embedded anew, once a round: {refresh:.1f} s")


def _table(what: str, parts: dict[str, float], rate: str) -> None:
    total = sum(parts.values())
    print(f"{what}: {total:.1f} s, {rate}")
    for name, one in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"  {name:24} {one:8.3f} s {one / total:6.1%}")


def _view(items: int, words: int) -> TrainingView:
    """Made-up items of so many words, each chosen by somebody."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    said = ["".join(generator.choice(letters, 5)) for _ in range(500)]
    texts = [" ".join(generator.choice(said, words)) + f" {at}." for at in range(items)]
    chosen = np.resize(generator.permutation(items), (USERS, max(HISTORY + 1, items // USERS + 1)))
    users = np.repeat(np.arange(USERS), chosen.shape[1])
    return TrainingView(
        "made up",
        IdMap(range(USERS), "user"),
        IdMap(range(items), "item"),
        Interactions(users, chosen.ravel(), np.arange(len(users))),
        pa.table({"title": texts}),
        "{title}",
        "made up",
    )


def _config(batch: int, new_tokens: int) -> LangPTuneConfig:
    values = {
        "rounds": 1,
        "sessions": {
            "history": HISTORY,
            "min_user": 1,
            "min_item": 1,
            "max_item_tokens": None,
            "max_history_tokens": None,
        },
        "cl": {"steps": 1, "batch_size": batch},
        "rlso": {
            "steps": 1,
            "batch_size": batch,
            "minibatch_size": batch,
            "max_new_tokens": new_tokens,
        },
        "lora": {"r": 16, "alpha": 32},
    }
    return LangPTuneConfig.build(values)


if __name__ == "__main__":
    main()
