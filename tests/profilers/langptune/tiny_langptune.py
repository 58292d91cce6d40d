"""Sessions, a model and a text encoder so small that all of LangPTune takes seconds."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.text.encoder import TextEncoder

sys.path.insert(0, str(Path(__file__).parents[1] / "reclm"))

USERS, ITEMS, EACH = 60, 24, 6
TASTES = ("jazz", "chess", "tea")
WORDS = ("quiet", "loud", "old", "new", "small", "great", "warm", "cold")


def view() -> TrainingView:
    """Sixty users of three tastes, each with six of their taste's eight items, rated; all but item 3 reviewed."""
    rng = np.random.default_rng(0)
    pairs = np.array(
        [(user, item) for user in range(USERS) for item in rng.permutation(8)[:EACH] * 3 + user % 3]
    )
    rating = (1 + pairs.sum(1) % 5).astype(np.float32)
    return TrainingView(
        "tastes",
        IdMap([f"u{at}" for at in range(USERS)], "user"),
        IdMap([f"i{at}" for at in range(ITEMS)], "item"),
        Interactions(
            pairs[:, 0],
            pairs[:, 1],
            np.arange(len(pairs)),
            rating,
            pa.array(
                ["" if item == 3 else f"So {WORDS[item // 3]}." for item in pairs[:, 1]], pa.large_string()
            ),
        ),
        pa.table({"title": [f"{WORDS[at // 3]} {TASTES[at % 3]}" for at in range(ITEMS)]}),
        "{title}",
        "fingerprint",
    )


def encoder(folder: Path) -> TextEncoder:
    """A table of random word vectors, which can be trained like any encoder."""
    said = [*TASTES, *WORDS, *["the", "user", "likes", "dislikes", "so", "rated", "wrote", "music", "games"]]
    words = {word: at for at, word in enumerate(["[unk]", *said])}
    tokenizer = Tokenizer(models.WordLevel(words, "[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(len(words), 16, generator=generator).numpy()
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(
        str(folder)
    )
    return TextEncoder(str(folder), "cpu")


def config(**changes: Any) -> LangPTuneConfig:
    """Few steps of everything."""
    return LangPTuneConfig.build({**settings(), **changes})


def settings() -> dict[str, Any]:
    return {
        "rounds": 2,
        "sessions": {"history": 4, "min_item": 1, "valid": 0.1, "test": 0.2},
        "prompts": {"begin": "The user likes"},
        "cl": {"steps": 4, "batch_size": 6, "learning_rate": 1e-2, "checkpoint_steps": 1},
        "rlso": {
            "steps": 4,
            "batch_size": 4,
            "minibatch_size": 4,
            "epochs": 1,
            "max_new_tokens": 6,
            "learning_rate": 1e-2,
            "unfinished_reward": None,
        },
        "lora": {"r": 2, "alpha": 4},
    }


def tune(place: Path, out: Path, killed_in: str = "", **changes: Any) -> None:
    """Tune in ``out``; the process is killed once the metrics of ``killed_in`` (cl or rlso) have three lines."""
    from reclm.profilers.langptune.profiler import LangPTuneProfiler

    if killed_in:
        threading.Thread(target=_kill, args=(out / killed_in / "metrics.jsonl",), daemon=True).start()
    profiler = LangPTuneProfiler(
        config(**changes), model=str(place / "model"), folder=out, encoder=TextEncoder(str(place / "encoder"))
    )
    profiler.tuning(view()).run()


def _kill(metrics: Path) -> None:
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def apart(*arguments: Any, **changes: Any) -> int:
    """:func:`tune` in a process of its own; returns its exit code, -9 where it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["reclm.profilers.langptune.pipeline", "reclm.profilers.langptune.profiler"]
    )
    process = context.Process(target=tune, args=arguments, kwargs=changes)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


if __name__ == "__main__":
    tune(Path(sys.argv[1]), Path(sys.argv[1]) / sys.argv[2])
