"""A data set, a teacher and a model so small that all stages of tuning take seconds."""

import csv
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
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reclm.data.dataset import Interactions, TrainingView
from reclm.data.id_map import IdMap
from reclm.profilers.reclm.config import RecLMConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "text"))

from tiny import TEMPLATE, tiny_tokenizer  # pyright: ignore[reportMissingImports]

IMPORTED_ONCE = ["reclm.profilers.reclm.pipeline", "trl.trainer.sft_trainer", "trl.trainer.reward_trainer"]
USERS, ITEMS = 40, 12
TASTES = ("jazz", "chess", "tea")


def view() -> TrainingView:
    """Forty users of three tastes, who chose four of their taste's four items; no item without a user but the last."""
    rng = np.random.default_rng(0)
    pairs = [
        (user, item)
        for user in range(USERS)
        for item in rng.permutation(4)[:3] * 3 + user % 3
        if item < ITEMS - 1
    ]
    return TrainingView(
        "tastes",
        IdMap([f"u{at}" for at in range(USERS)], "user"),
        IdMap([f"i{at}" for at in range(ITEMS)], "item"),
        Interactions(np.array(pairs)[:, 0], np.array(pairs)[:, 1], np.arange(len(pairs))),
        pa.table({"title": [f"{TASTES[at % 3]} {at}" for at in range(ITEMS)]}),
        "{title}",
        "fingerprint",
    )


def teachers(folder: Path) -> dict[str, Path]:
    """Files of user and item profiles."""
    paths = {}
    for kind, many in (("users", USERS), ("items", ITEMS - 1)):
        paths[kind] = folder / f"{kind}.csv"
        with paths[kind].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text"])
            for at in range(many):
                taste = TASTES[at % 3]
                writer.writerow(
                    [f"{kind[0]}{at}", f"User identity: {taste} fan; User interests: {taste} {at % 2}."]
                )
    return paths


def model(folder: Path, context: int = 2048) -> Path:
    """A two-layer Llama that reads bytes."""
    config = LlamaConfig(
        vocab_size=303,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(),
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


def config(folder: Path, **changes: object) -> RecLMConfig:
    """Few steps of everything, with the teacher's files in ``folder``."""
    paths = {kind: str(path) for kind, path in teachers(folder).items()}
    values = settings()
    values["teacher"] |= paths
    return RecLMConfig.build({**values, **changes})


def settings() -> dict[str, Any]:
    """Few steps of everything."""
    stage = {"epochs": 0.5, "batch_size": 4, "accumulate": 1, "lora": {"r": 2, "alpha": 4, "dropout": 0.1}}
    return {
        "instructions": {
            "phrases": 1,
            "item_phrases": 1,
            "answer_tokens": 20,
            "history": 3,
            "neighbour_history": 2,
        },
        "neighbours": {"count": 2, "epochs": 2, "dim": 8},
        "teacher": {"phrases": 1, "item_phrases": 1},
        **dict.fromkeys(("kd", "collab", "items"), stage),
        "reward": {**stage, "epochs": 1},
        "ppo": {"steps": 3, "batch_size": 4, "minibatch_size": 2, "max_new_tokens": 8},
        "ppo_lora": {"r": 2, "alpha": 4},
        "generation": {"max_new_tokens": 8},
        "measured": 3,
    }


class Letters:
    """An encoder that counts letters."""

    name = "letters"

    def encode(self, texts, **_: object) -> np.ndarray:
        return np.array([[text.count(one) for one in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float)


def tune(place: Path, out: Path, killed_in: str = "", **changes: object) -> None:
    """Tune in ``out``; the process is killed once the metrics of the stage ``killed_in`` have two lines."""
    from reclm.profilers.reclm.profiler import RecLMProfiler

    if killed_in:
        threading.Thread(target=_kill, args=(out / killed_in / "metrics.jsonl",), daemon=True).start()
    encoder: Any = Letters()
    RecLMProfiler(config(place, **changes), model=str(place / "model"), folder=out, encoder=encoder).fit(
        view()
    )


def _kill(metrics: Path) -> None:
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def apart(*arguments: Any, **changes: Any) -> int:
    """:func:`tune` in a process of its own; returns its exit code, -9 where it was killed."""
    context = multiprocessing.get_context("forkserver")
    # what takes seconds to import is imported once for all of them
    context.set_forkserver_preload(IMPORTED_ONCE)
    process = context.Process(target=tune, args=arguments, kwargs=changes)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


if __name__ == "__main__":
    tune(Path(sys.argv[1]), Path(sys.argv[1]) / "out")
