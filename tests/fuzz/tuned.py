"""Targets of tuning: checkpoints that a training goes on from, caches beside them, and folders that were tuned."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml

from .artefacts import judge_options, tensors_of
from .language import write_language_model

STEP = "step-000001"
"""The checkpoint that is read."""


@cache
def _contrastive() -> Any:
    """Return a learner on a table of word vectors; it is resumed in each case."""
    from reclm.profilers.langptune.config import ContrastiveConfig
    from reclm.profilers.langptune.recommender import Contrastive
    from tests.profilers.langptune.tiny_langptune import encoder

    config = ContrastiveConfig(steps=4, batch_size=2)
    return Contrastive(encoder(Path(mkdtemp())).model, config, 1e-2)


@cache
def _loop(name: str) -> Any:
    """Return a loop of reinforcement learning on a tiny model; it is resumed in each case."""
    from reclm.llm.models import find_model
    from reclm.profilers.rl.config import PPOConfig, RLSOConfig
    from reclm.profilers.rl.ppo import PPO
    from reclm.profilers.rl.rlso import RLSO
    from reclm.profilers.tuning.adapter import LoraOptions
    from tests.profilers.rl.toy_policy import count_e, make_loop

    folder = Path(mkdtemp())
    write_language_model(folder)
    options: dict[str, Any] = {"steps": 9, "batch_size": 2, "minibatch_size": 2}
    lora = LoraOptions(r=1, alpha=2, modules=["q_proj"])
    kind, config = (PPO, PPOConfig(**options)) if name == "ppo" else (RLSO, RLSOConfig(**options))
    return make_loop(kind, find_model(str(folder / "tiny")), config, count_e, lora)


def _update(optimizer: Any) -> None:
    """Take a step of an optimiser with gradients of ones."""
    for weights in (weights for group in optimizer.param_groups for weights in group["params"]):
        weights.grad = torch.ones_like(weights)
    optimizer.step()


def write_contrastive(folder: Path) -> None:
    learner = _contrastive()
    _update(learner.optimizer)
    learner.step = 1
    learner.save(folder)


def read_contrastive(folder: Path) -> dict[str, Any]:
    """Return the step, the weights and AdamW's numbers of a learner that goes on, which then takes a step."""
    learner = _contrastive()
    assert learner.resume(folder) or not (folder / STEP).is_dir()
    return _state(learner, learner.encoder.state_dict())


def _state(trained: Any, weights: dict[str, Any]) -> dict[str, Any]:
    optimizer = trained.optimizer.state_dict()
    value = {
        "step": trained.step,
        "weights": {name: tensor.detach().numpy().copy() for name, tensor in weights.items()},
        "optimizer": {
            (key, name): np.asarray(number).copy()
            for key, state in optimizer["state"].items()
            for name, number in state.items()
        },
    }
    _update(trained.optimizer)
    return value


def judge_checkpoint(weights_file: str) -> Callable[[Path, Any, Any], None]:
    """Return an oracle: step, weights and AdamW's numbers are those in the files."""

    def judge(folder: Path, value: dict[str, Any], sound: dict[str, Any]) -> None:
        state = json.loads((folder / STEP / "state.json").read_bytes())
        assert state["step"] == value["step"] == 1, f"goes on at {value['step']}, saved as {state['step']!r}"
        stored = tensors_of((folder / STEP / weights_file).read_bytes())
        assert stored.keys() <= value["weights"].keys(), "weights that are not taken over"
        for name, tensor in stored.items():
            same = np.array_equal(value["weights"][name], tensor, equal_nan=True)
            assert same, f"other weights than the file has: {name}"
        saved = torch.load(io.BytesIO((folder / STEP / "optimizer.pt").read_bytes()), weights_only=True)
        wanted = {(key, name): one for key, part in saved["state"].items() for name, one in part.items()}
        assert value["optimizer"].keys() == wanted.keys(), "other numbers of AdamW"
        for key, number in value["optimizer"].items():
            assert number.shape == sound["optimizer"][key].shape, f"{key} has the shape {number.shape}"
            same = np.array_equal(number, np.asarray(wanted[key], number.dtype), equal_nan=True)
            assert same, f"{key} is not what the file has"

    return judge


def write_loop(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        loop = _loop(name)
        _update(loop.optimizer)
        loop.step = 1
        loop.save(folder, last=True)

    return write


def read_loop(name: str) -> Callable[[Path], dict[str, Any]]:
    """Return what lets a loop go on from a checkpoint, and take an optimiser's step."""

    def read(folder: Path) -> dict[str, Any]:
        from peft import get_peft_model_state_dict

        loop = _loop(name)
        assert loop.resume(folder)
        weights = get_peft_model_state_dict(loop.policy.network, save_embedding_layers=False)
        value = _state(loop, weights)
        return value | {"own": loop._state(), "random": torch.get_rng_state().numpy().copy()}

    return read


def judge_loop(folder: Path, value: dict[str, Any], sound: dict[str, Any]) -> None:
    """What goes on is what was saved, the algorithm's own numbers and those of the random generator as well."""
    judge_checkpoint("adapter_model.safetensors")(folder, value, sound)
    state = json.loads((folder / STEP / "state.json").read_bytes())
    assert {name: state[name] for name in value["own"]} == value["own"], "another state of the algorithm"
    random = tensors_of_bytes((folder / STEP / "random.safetensors").read_bytes())
    generator = torch.Generator()
    generator.set_state(torch.from_numpy(random.copy()))
    same = np.array_equal(value["random"], generator.get_state().numpy())
    assert same, "another state of the random generator"


def tensors_of_bytes(data: bytes) -> np.ndarray:
    """Return the tensor ``cpu`` of a safetensors file of bytes."""
    size = int.from_bytes(data[:8], "little")
    start, stop = json.loads(data[8 : 8 + size])["cpu"]["data_offsets"]
    return np.frombuffer(data[8 + size :][start:stop], np.uint8)


def write_tuned(name: str) -> Callable[[Path], None]:
    """Return what writes a tuned folder: options, origin, an adapter or an encoder, curves."""

    def write(folder: Path) -> None:
        from reclm.files import write_text
        from reclm.profilers.langptune.profiler import LangPTuneAbout, Tuned
        from reclm.profilers.reclm.config import RecLMConfig
        from reclm.profilers.tuning.run_folder import About
        from tests.profilers.langptune.tiny_langptune import config

        options = {"dataset": "tastes", "fingerprint": "f", "model": "tiny", "weights": "tiny@1"}
        chosen: Any = config() if name == "langptune" else RecLMConfig()
        about = LangPTuneAbout(**options, encoder="e@1") if name == "langptune" else About(**options)
        chosen.to_yaml(folder / "config.yaml")
        about.to_yaml(folder / "about.yaml")
        if name == "langptune":
            for part in ("cl", "rlso"):
                (folder / part).mkdir()
                rows = [json.dumps({"step": at, "loss": 1 / at, "reward": 0.5}) for at in (1, 2, 3)]
                (folder / part / "metrics.jsonl").write_text("\n".join(rows) + "\n")
            Tuned(folder, chosen, about).finish()
        else:
            write_text(folder / "kd" / "adapter" / "adapter_config.json", "{}")

    return write


def read_tuned(name: str) -> Callable[[Path], dict[str, Any]]:
    """Return what opens a tuned folder to write profiles with it, up to its weights."""

    def read(folder: Path) -> dict[str, Any]:
        from reclm.profilers.langptune.profiler import Tuned
        from reclm.profilers.reclm.profiler import RecLMFolder

        kind: Any = Tuned if name == "langptune" else RecLMFolder
        settings = {"temperature": 0.5} if name == "langptune" else None
        tuned = kind.read(folder)
        tuned.reopened(settings, None)
        return {
            "config": tuned.config.model_dump(mode="json"),
            "about": tuned.about.model_dump(mode="json"),
            "log": list(tuned.log()) if name == "langptune" else tuned.last("user"),
        }

    return read


def judge_tuned(folder: Path, value: dict[str, Any], sound: Any) -> None:
    """Options and origin are those of the files, as PyYAML reads them."""
    for part in ("config", "about"):
        wanted = yaml.safe_load((folder / f"{part}.yaml").read_bytes())
        if isinstance(stages := wanted.get("stages"), list):  # a stage that stands twice runs once
            wanted["stages"] = list(dict.fromkeys(stages))
        judge_options(wanted, value[part])


def _neighbours(folder: Path, make: Callable[[], np.ndarray]) -> Any:
    """Return similar users of five, whose vectors ``make`` makes where they are not in ``folder``."""
    from reclm.profilers.reclm.config import NeighbourConfig
    from reclm.profilers.reclm.neighbours import UserNeighbours

    view: Any = SimpleNamespace(fingerprint="0123456789abcdef", users=range(5))
    users = UserNeighbours(view, np.arange(10).reshape(5, 2), NeighbourConfig(count=2), folder, False)
    vars(users)["vectors"] = users._cached("vectors", make)
    return users


def write_neighbours(folder: Path) -> None:
    """Cache the vectors and the similar users."""
    read_neighbours(folder)


def read_neighbours(folder: Path) -> tuple[list[Any], list[Any]]:
    """Return the vectors and the similar users: from the cache, or made again."""
    users = _neighbours(folder, lambda: np.random.default_rng(0).random((5, 4), np.float32))
    return users.vectors.tolist(), users.nearest.tolist()


def judge_neighbours(folder: Path, value: tuple[list[Any], list[Any]], sound: Any) -> None:
    """Each user has a vector of numbers, and as many similar users, who are users or none."""
    vectors, nearest = (np.array(part) for part in value)
    assert vectors.ndim == 2, "no vectors"
    assert len(vectors) == 5, "no vector of each user"
    assert np.isfinite(vectors).all(), "vectors without a direction"
    assert nearest.shape == (5, 2), f"{nearest.shape} similar users"
    assert set(nearest.flatten().tolist()) <= {-1, 0, 1, 2, 3, 4}, f"no users: {value[1]}"
