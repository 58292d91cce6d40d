"""PPO on the tuned model (RecLM, https://arxiv.org/abs/2412.19302, section 2.4, equations 7 and 8)."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel

from reclm.console import progress_bar
from reclm.files import atomic_folder
from reclm.llm.models import LanguageModel
from reclm.profilers.rl import checkpoints
from reclm.profilers.rl.config import LoraOptions, PPOConfig
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.ppo import PPO
from reclm.profilers.rl.rollout import PolicyGenerator, Reward
from reclm.profilers.tuning.metrics_log import MetricsLog, writing
from reclm.profilers.tuning.training import ADAPTER, load_network


def train_ppo(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    reward: Reward,
    folder: Path,
    config: PPOConfig,
    lora: LoraOptions,
    *,
    start: Path | None = None,
    progress: bool = True,
) -> Path:
    """Train the tuned model for ``reward``, and return the adapter's folder; an interrupted run goes on.

    The adapter holds all stages: the tuned one and PPO's in one, on the untuned model. Where the KL ran away it is that
    of the step before.

    Args:
        prompts: token ids, answers begun.
        start: the tuned adapter; the reference is the model with it. None: the untuned model.
    """
    network = load_network(model)
    if start is not None:
        network = PeftModel.from_pretrained(network, str(start))
    policy = Policy.adapt(network, lora, seed=config.seed)
    ppo = PPO(policy, PolicyGenerator(policy.base, model), prompts, reward, config)
    steps, first = folder / "checkpoints", ppo.accelerator.is_main_process
    with progress_bar("PPO", config.steps, progress and first) as advance, writing(folder):
        if not ppo.resume(steps):
            ppo.save(steps)
        advance(ppo.step)
        log = MetricsLog(folder, ppo.step + ppo.stopped) if first else None
        for metrics in ppo.run():
            # before the checkpoint: rows behind the latest checkpoint are cut off, missing ones stay missing
            if log:
                log.add(ppo.step + ppo.stopped, metrics)
            ppo.save(steps)
            if log:
                checkpoints.keep(steps, 2)
            advance(1, f"PPO: reward {metrics['reward']:.2f}, KL {metrics['kl']:.1f}")
        if log:
            log.close()
            done = checkpoints.complete(steps)
            with atomic_folder(folder / ADAPTER) as draft:
                combine_adapters(model, start, done[0] if ppo.stopped else done[-1], draft)
            shutil.rmtree(steps, ignore_errors=True)
        ppo.accelerator.wait_for_everyone()
    return folder / ADAPTER


def combine_adapters(model: LanguageModel, first: Path | None, second: Path, folder: Path) -> None:
    """Write the adapter whose update is the sum of two: their matrices side by side, ranks added."""
    if first is None:
        network = PeftModel.from_pretrained(load_network(model, device="cpu"), str(second))
    else:
        network = PeftModel.from_pretrained(
            load_network(model, device="cpu"), str(first), adapter_name="first"
        )
        network.load_adapter(str(second), "second")
        network.add_weighted_adapter(["first", "second"], [1.0, 1.0], "default", combination_type="cat")
        network.set_adapter("default")
    network.save_pretrained(str(folder), selected_adapters=["default"], save_embedding_layers=False)
