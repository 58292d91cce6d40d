"""The reward model's pairs and scores (RecLM, https://arxiv.org/abs/2412.19302, section 2.4, equation 6)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from reclm.llm.chat import Message
from reclm.llm.models import LanguageModel
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import PAPERS
from reclm.profilers.reclm.config import Negative, RewardDataConfig
from reclm.profilers.reclm.samples import Sample, messages_of
from reclm.profilers.tuning.adapter import with_adapter
from reclm.profilers.tuning.training import load_network


@dataclass(frozen=True)
class Pair:
    """Two answers: ``chosen`` is to be rated higher than ``rejected``, which is of the kind ``negative``."""

    subject: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    negative: Negative


def split_users(
    users: np.ndarray, config: RewardDataConfig, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Split ``users`` ``(n,)`` at random into disjoint parts by name, together all of them."""
    shuffled = generator.permutation(users)
    ends = np.cumsum(_apportioned(np.array(list(config.split.values())), len(users)))
    return dict(zip(config.split, np.split(shuffled, ends[:-1]), strict=True))


def reward_pairs(
    samples: Iterable[Sample],
    profiles: Mapping[str, str],
    config: RewardDataConfig,
    generator: np.random.Generator,
) -> Iterator[Pair]:
    """Yield a pair of each inference prompt (equation 5) whose subject has a profile, the better answer.

    The worse one is what failed tuning writes: a similar user's profile, a mixture, or too little. The kinds have the
    config's shares to within one pair; users without a neighbour whose profile differs get one of the kinds that need
    none while there are such, and are left out after that.
    """
    known = [sample for sample in samples if sample.subject in profiles]
    targets = [profiles[sample.subject] for sample in known]
    others = [
        [profiles[near] for near in sample.neighbours if profiles.get(near, target) != target]
        for sample, target in zip(known, targets, strict=True)
    ]
    lonely = np.fromiter((not texts for texts in others), bool, len(known))
    kinds = _kinds(lonely, config, generator)
    for sample, target, texts, kind in zip(known, targets, others, kinds, strict=True):
        if kind is not None:
            neighbour = texts[int(generator.integers(len(texts)))] if texts else ""
            yield Pair(sample.subject, sample.messages, target, rejected(kind, target, neighbour), kind)


def rejected(kind: Negative, own: str, neighbour: str = "") -> str:
    """Return an answer that is worse than ``own`` in the way of ``kind``.

    >>> rejected("repeated", "User identity: cook; User interests: bread.")
    'User identity: cook; User identity: cook.'
    """
    identities = f"{PAPERS.start} {', '.join(PAPERS.parse(own)['identities'])}"
    return {
        "neighbour": neighbour,
        "mixed": f"{own} {neighbour}",
        "identities": f"{identities}.",
        "repeated": f"{identities}; {identities}.",
        "header": "; ".join(f"{field.heading}:" for field in PAPERS.fields),
        "dot": ".",
    }[kind]


def pair_dataset(pairs: Iterable[Pair]) -> Any:
    """Return pairs as a ``datasets.Dataset`` for TRL's RewardTrainer, with ``subject`` and ``negative`` beside."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    turns = List({"role": text, "content": text})
    columns = {"prompt": turns, "chosen": turns, "rejected": turns, "subject": text, "negative": text}
    rows = [
        {
            **vars(pair),
            "prompt": [vars(turn) for turn in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    by_column = {name: [row[name] for row in rows] for name in columns}  # of no rows, too
    return Dataset.from_dict(by_column, features=Features(columns))


def tokenise_pairs(pairs: Any, prompts: PromptTokenizer) -> Any:
    """Return the pairs of :func:`pair_dataset` as ``chosen_ids`` and ``rejected_ids``, which RewardTrainer takes."""

    def tokens(row: Mapping[str, Any]) -> dict[str, list[int]]:
        return {f"{side}_ids": prompts.training_ids(_chat(row, side))[0] for side in ("chosen", "rejected")}

    options = {"remove_columns": pairs.column_names, "load_from_cache_file": False}
    return pairs.map(tokens, keep_in_memory=True, **options)


def _chat(pair: Mapping[str, Any], side: str) -> tuple[Message, ...]:
    return (*messages_of(pair["prompt"]), *messages_of(pair[side]))


def _kinds(
    lonely: np.ndarray, config: RewardDataConfig, generator: np.random.Generator
) -> list[Negative | None]:
    """Return a kind for each user, in the shares of the config; None where none is left that needs no neighbour."""
    names = list(config.negatives)
    shares = np.array([config.negatives[name] for name in names])
    alone = np.array([name not in {"neighbour", "mixed"} for name in names])
    # at most so many users that those without a neighbour fit the share that needs none
    room = shares[alone].sum()
    most = len(lonely) if room >= 1 else min(len(lonely), int((~lonely).sum() / (1 - room)))
    pool = generator.permutation(np.repeat(np.arange(len(names)), _apportioned(shares, most)))
    order = generator.permutation(len(lonely))
    kinds: list[Negative | None] = [None] * len(lonely)
    # the lonely first, from the kinds that need no neighbour; then the others from the rest
    free, bound = pool[alone[pool]].tolist(), pool[~alone[pool]].tolist()
    for user in order[lonely[order]][: len(free)]:
        kinds[user] = names[free.pop()]
    left = generator.permutation(np.array(free + bound, np.int64)).tolist()
    for user in order[~lonely[order]][: len(left)]:
        kinds[user] = names[left.pop()]
    return kinds


def _apportioned(shares: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers in the proportion of ``shares`` that sum to ``total``: largest remainders round up."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


class RewardModel:
    """Rates profiles; a :class:`~reclm.profilers.rl.loop.Reward` for the prompts ``questions``.

    ``network`` is a sequence classifier with one output, its ``pad_token_id`` set.
    """

    def __init__(
        self, network: Any, prompts: PromptTokenizer, questions: Sequence[tuple[Message, ...]] = ()
    ) -> None:
        self.network, self.prompts, self.questions = network.eval(), prompts, questions

    @classmethod
    def load(
        cls,
        model: LanguageModel,
        adapter: Path,
        prompts: PromptTokenizer,
        questions: Sequence[tuple[Message, ...]] = (),
    ) -> Self:
        """Load the reward model that was trained to ``adapter``, merged with ``model``."""
        network, tokenizer = load_network(model, scores=True), prompts.tokenizer
        pad = tokenizer.convert_tokens_to_ids(tokenizer.pad_token or tokenizer.eos_token)
        network.config.get_text_config().pad_token_id = pad
        network = with_adapter(network, adapter).merge_and_unload()
        return cls(network, prompts, questions)

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> list[float]:
        """Return the reward of each profile, which lacks ``User identity:``, as an answer to its row's prompt."""
        answers = (Message("assistant", f"{PAPERS.start} {text}".strip()) for text in texts)
        chats = [(*self.questions[row], answer) for row, answer in zip(rows, answers, strict=True)]
        return self.scores(chats).tolist()

    @torch.inference_mode()
    def scores(self, chats: Sequence[tuple[Message, ...]]) -> np.ndarray:
        """Return the rewards ``(n,)`` float32 of finished chats."""
        ids = [self.prompts.training_ids(chat)[0] for chat in chats]
        rewards = np.zeros(len(ids), np.float32)
        pad = self.network.config.get_text_config().pad_token_id
        for rows, batch, mask in padded(ids, 16, pad, self.network.device):
            logits = self.network(input_ids=batch, attention_mask=mask).logits
            rewards[rows] = logits[:, 0].float().cpu().numpy()
        return rewards


def padded(
    chats: Sequence[Sequence[int]], size: int, pad: int, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield batches of chats of similar length: their places, their ids ``(n, length)``, and the mask of the ids."""
    order = np.argsort([len(chat) for chat in chats], kind="stable")
    for start in range(0, len(chats), size):
        rows = order[start : start + size]
        ids = [torch.tensor(chats[row]) for row in rows]
        mask = pad_sequence([torch.ones_like(chat) for chat in ids], batch_first=True)
        yield rows, pad_sequence(ids, batch_first=True, padding_value=pad).to(device), mask.to(device)


def pair_accuracy(reward: RewardModel, pairs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Count how often the better profile is rated higher: kind of negative -> (right, pairs), and ``all``."""
    pairs = list(pairs)
    chosen, rejected = (
        reward.scores([_chat(pair, side) for pair in pairs]) for side in ("chosen", "rejected")
    )
    right, kinds = chosen > rejected, np.array([pair["negative"] for pair in pairs])
    groups = {"all": np.ones(len(pairs), bool)} | {str(kind): kinds == kind for kind in np.unique(kinds)}
    return {name: (int(right[group].sum()), int(group.sum())) for name, group in groups.items()}
