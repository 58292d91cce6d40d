"""The reward model by TRL's RewardTrainer with LoRA (RecLM, arXiv 2412.19302, section 2.4, equation 6)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence

from reclm.llm.chat import Message
from reclm.llm.models import LanguageModel
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.config import TuningConfig
from reclm.profilers.reclm.masking import messages_of
from reclm.profilers.reclm.reward_data import tokenised
from reclm.profilers.reclm.sft import adapted, arguments, arranged, evenly, train
from reclm.profilers.tuning.load_model import load_network

_TOGETHER = 16


def tune_reward(
    model: LanguageModel,
    prompts: PromptTokenizer,
    pairs: Any,
    held_out: Any,
    folder: Path,
    config: TuningConfig,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Train a reward model on pairs, and return where its adapter lies; a run that was broken goes on.

    Args:
        prompts: the model's tokenizer.
        pairs, held_out: as :func:`~reclm.profilers.reclm.reward_data.as_dataset` makes them; loss and accuracy on
            ``held_out`` are logged after each pass.
        folder: where everything goes.

    Raises:
        ReclmError: if something cannot be written.
    """
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    tokens = tokenised(pairs, prompts)
    lengths = np.array(
        [max(map(len, both)) for both in zip(tokens["chosen_ids"], tokens["rejected_ids"], strict=True)]
    )
    order = arranged(lengths, config, np.random.default_rng([seed, 1]))
    tested = held_out.select(evenly(len(held_out), config.evaluated))
    tested = tokenised(tested, prompts) if len(tested) else None
    network = load_network(model, config.four_bit, scores=True)
    with torch.random.fork_rng():
        # transformers draws the new layer from the global state
        torch.manual_seed(seed)
        torch.nn.init.normal_(network.score.weight, std=0.02)
    trainer = RewardTrainer(
        model=adapted(network, config.lora, "SEQ_CLS", None, seed),
        args=arguments(RewardConfig, folder, config, len(order), seed, tested is not None),
        train_dataset=tokens.select(order),
        eval_dataset=tested,
        processing_class=prompts.tokenizer,
    )
    return train(trainer, folder, "reward model", progress)


class RewardModel:
    """Says how good profiles are; a :class:`~reclm.profilers.rl.rewards.Reward` for the prompts ``asked``.

    Args:
        network: a sequence classifier with one output, its ``pad_token_id`` set.
        prompts: its tokenizer.
        asked: the prompts that ``rows`` of a call count; not needed for :meth:`scores`.
        begun: the first words of every answer, which texts that are judged by a call lack.
    """

    def __init__(
        self,
        network: Any,
        prompts: PromptTokenizer,
        asked: Sequence[tuple[Message, ...]] = (),
        begun: str = "",
    ) -> None:
        self.network = network.eval()
        self.prompts = prompts
        self.asked = asked
        self.begun = begun

    @classmethod
    def load(
        cls,
        model: LanguageModel,
        adapter: Path,
        prompts: PromptTokenizer,
        asked: Sequence[tuple[Message, ...]] = (),
        begun: str = "",
    ) -> Self:
        """The reward model that :func:`tune_reward` wrote to ``adapter``, merged with ``model``."""
        network = load_network(model, scores=True)
        tokenizer = prompts.tokenizer
        network.config.get_text_config().pad_token_id = tokenizer.convert_tokens_to_ids(
            tokenizer.pad_token or tokenizer.eos_token
        )
        return cls(PeftModel.from_pretrained(network, str(adapter)).merge_and_unload(), prompts, asked, begun)

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> list[float]:
        """A number an answer; ``rows`` says which prompt each answers."""
        answers = (Message("assistant", f"{self.begun} {text}".strip()) for text in texts)
        chats = [(*self.asked[row], answer) for row, answer in zip(rows, answers, strict=True)]
        return self.scores(chats).tolist()

    @torch.inference_mode()
    def scores(self, chats: Sequence[tuple[Message, ...]]) -> np.ndarray:
        """Rewards ``(n,)`` float32 of finished chats."""
        ids = [torch.tensor(self.prompts.training_ids(chat)[0]) for chat in chats]
        rewards = np.zeros(len(ids), np.float32)
        pad, device = self.network.config.get_text_config().pad_token_id, self.network.device
        order = np.argsort([len(one) for one in ids], kind="stable")
        for rows in np.split(order, range(_TOGETHER, len(order), _TOGETHER)) if ids else ():
            some = [ids[row] for row in rows]
            batch = pad_sequence(some, batch_first=True, padding_value=pad).to(device)
            there = pad_sequence([torch.ones_like(one) for one in some], batch_first=True).to(device)
            rewards[rows] = (
                self.network(input_ids=batch, attention_mask=there).logits[:, 0].float().cpu().numpy()
            )
        return rewards


def pair_accuracy(reward: RewardModel, pairs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """How often the better profile is rated higher: kind of negative -> (right, pairs), and ``all``."""
    pairs = list(pairs)
    both = [
        reward.scores([(*messages_of(one["prompt"]), *messages_of(one[side])) for one in pairs])
        for side in ("chosen", "rejected")
    ]
    right = both[0] > both[1]
    kinds = np.array([one["negative"] for one in pairs])
    counts = {
        str(kind): (int(right[kinds == kind].sum()), int((kinds == kind).sum())) for kind in np.unique(kinds)
    }
    return {"all": (int(right.sum()), len(right)), **counts}
