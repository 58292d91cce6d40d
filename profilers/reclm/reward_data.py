"""Pairs that the reward model learns from (RecLM, arXiv 2412.19302, section 2.4, equation 6).

``R+`` is a user's own profile, ``R-`` what tuning gone wrong writes: a similar user's profile, a mixture, or too
little. Columns as TRL's RewardTrainer reads them: ``prompt``, ``chosen``, ``rejected``, each a list of messages.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from reclm.data.dataset import ReadReport
from reclm.llm.chat import Message
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import MIDDLE, START, parse
from reclm.profilers.reclm.config import Negative, RewardDataConfig
from reclm.profilers.reclm.instructions import Sample
from reclm.profilers.reclm.masking import messages_of

OF_NEIGHBOUR: tuple[Negative, ...] = ("neighbour", "mixed")


@dataclass(frozen=True)
class Pair:
    """``chosen`` is to be rated higher than ``rejected``; ``negative`` says what is wrong with it."""

    subject: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    negative: Negative


def split_users(
    users: np.ndarray, config: RewardDataConfig, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """``users`` ``(n,)`` in disjoint parts by name, together all of them, by a permutation that ``generator`` draws."""
    shuffled = generator.permutation(users)
    ends = np.cumsum(_apportioned(np.array(list(config.split.values())), len(users)))
    return dict(zip(config.split, np.split(shuffled, ends[:-1]), strict=True))


def reward_pairs(
    samples: Iterable[Sample],
    profiles: Mapping[str, str],
    config: RewardDataConfig,
    generator: np.random.Generator,
    report: ReadReport,
) -> Iterator[Pair]:
    """One pair a user.

    The kinds have the config's shares to within one pair; users without a neighbour whose profile differs get one of
    the kinds that need none while there are such, and are left out and counted after that.

    Args:
        samples: inference prompts (equation 5), whose ``neighbours`` are the similar users.
        profiles: id to text, in format: ``R+`` of each sample, and the neighbours'. Samples without one are left out.
        report: where the pairs, and what was left out, are counted.
    """
    samples = list(samples)
    known = [one for one in samples if one.subject in profiles]
    report.drop("reward: no profile", len(samples) - len(known))
    others = [_different(one, profiles) for one in known]
    lonely = np.fromiter((not some for some in others), bool, len(known))
    kinds = _kinds(lonely, config, generator)
    for sample, other, kind in zip(known, others, kinds, strict=True):
        if kind is None:
            report.drop("reward: no neighbour with another profile")
            continue
        own = profiles[sample.subject]
        theirs = other[int(generator.integers(len(other)))] if other else ""
        report.kept[kind] = report.kept.get(kind, 0) + 1
        yield Pair(sample.subject, sample.messages, own, rejected(kind, own, theirs), kind)


def rejected(kind: Negative, own: str, neighbour: str = "") -> str:
    """The answer that is worse than ``own`` in the way of ``kind``.

    >>> rejected("repeated", "User identity: cook; User interests: bread.")
    'User identity: cook; User identity: cook.'
    """
    identities = ", ".join(parse(own).identities)
    match kind:
        case "neighbour":
            return neighbour
        case "mixed":
            return f"{own} {neighbour}"
        case "identities":
            return f"{START} {identities}."
        case "repeated":
            return f"{START} {identities}; {START} {identities}."
        case "header":
            return f"{START}{MIDDLE}"
        case "dot":
            return "."


def as_dataset(pairs: Iterable[Pair]) -> Any:
    """Pairs as a ``datasets.Dataset`` for TRL's RewardTrainer, with ``subject`` and ``negative`` beside."""
    from datasets import Dataset, Features, List, Value

    turn = List({"role": Value("string"), "content": Value("string")})
    text = Value("string")
    columns = {"prompt": turn, "chosen": turn, "rejected": turn, "subject": text, "negative": text}
    rows = [
        {
            "prompt": [{"role": one.role, "content": one.content} for one in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "subject": pair.subject,
            "negative": pair.negative,
        }
        for pair in pairs
    ]
    return Dataset.from_list(rows, features=Features(columns))


def tokenised(pairs: Any, prompts: PromptTokenizer) -> Any:
    """:func:`as_dataset`'s pairs as ``chosen_ids`` and ``rejected_ids``, which RewardTrainer takes as they are.

    The same tokens as everywhere else: nothing that the data say becomes a special token, and a template without
    system messages does.
    """

    def tokens(row: Mapping[str, Any]) -> dict[str, list[int]]:
        asked = messages_of(row["prompt"])
        ids = [prompts.training_ids((*asked, *messages_of(row[name])))[0] for name in ("chosen", "rejected")]
        return {"chosen_ids": ids[0], "rejected_ids": ids[1]}

    return pairs.map(tokens, remove_columns=pairs.column_names, load_from_cache_file=False, desc="tokens")


def _different(sample: Sample, profiles: Mapping[str, str]) -> list[str]:
    """Profiles of the sample's neighbours that are not the same text as its subject's own."""
    theirs = (profiles.get(one) for one in sample.neighbours)
    return [text for text in theirs if text is not None and text != profiles[sample.subject]]


def _kinds(
    lonely: np.ndarray, config: RewardDataConfig, generator: np.random.Generator
) -> list[Negative | None]:
    """A kind for each user, in the shares of the config; None where none is left that needs no neighbour."""
    names = list(config.negatives)
    shares = np.array([config.negatives[name] for name in names])
    alone = np.array([name not in OF_NEIGHBOUR for name in names])
    # so many users that the lonely ones get no more than the share that needs no neighbour
    room = shares[alone].sum()
    paired = int((~lonely).sum())
    most = len(lonely) if room >= 1 else min(len(lonely), int(paired / (1 - room)))
    counts = _apportioned(shares, most)
    pool = np.repeat(np.arange(len(names)), counts)
    pool = generator.permutation(pool)
    order = generator.permutation(len(lonely))
    kinds: list[Negative | None] = [None] * len(lonely)
    # the lonely first, from the kinds that need no neighbour; then everybody else from what is left
    free, bound = pool[alone[pool]].tolist(), pool[~alone[pool]].tolist()
    for user in order[lonely[order]]:
        if free:
            kinds[user] = names[free.pop()]
    left = generator.permutation(np.array(free + bound, np.int64)).tolist()
    for user in order[~lonely[order]]:
        if left:
            kinds[user] = names[left.pop()]
    return kinds


def _apportioned(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in the proportion of ``shares`` that sum to ``total``: largest remainders round up."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
