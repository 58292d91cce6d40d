"""The recommender of LangPTune (arXiv 2410.18870): a text encoder that ranks items by their cosine to a profile.

It learns by contrast of profiles and next items (equation 7), and its rankings are the reward of RLSO (section 2).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import all_gather_with_grad, batch_to_device, cos_sim
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from reclm.data.sessions import NONE
from reclm.profilers.langptune.config import ContrastiveConfig
from reclm.profilers.langptune.prompts import SessionHistories, finished
from reclm.profilers.rl.loop import Metrics, check_batch
from reclm.profilers.rl.rollout import Rollout
from reclm.profilers.tuning.checkpoints import (
    Pace,
    checkpoints,
    read_optimizer,
    read_state,
    save_checkpoint,
)
from reclm.profilers.tuning.metrics_log import reading
from reclm.profilers.tuning.readability import interpretability
from reclm.text.encoder import TextEncoder


def contrastive_loss(
    profiles: Tensor,
    items: Tensor,
    own: Tensor,
    chosen: Tensor,
    item_idx: Tensor,
    temperature: float,
    log_frequency: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE over the items of the batch: ``-ln exp(s_b,b / τ) / Σ_i exp(s_b,i / τ)``, mean over profiles.

    ``s`` is the cosine; with ``log_frequency`` it is ``s_b,i / τ - ln q_i`` whose exponents are compared. An item that
    a profile's user chose next is no negative of it, whichever profile it came with. Without these masks it is
    sentence-transformers' MultipleNegativesRankingLoss (a test compares them).

    Args:
        profiles: ``(b, t)`` embeddings.
        items: ``(B, t)`` embeddings of the batch's items, of other processes, too; ``item_idx (B,)`` are their rows.
        own: ``(b,)`` places in ``items`` of the item that each profile is to be near to.
        chosen: ``(b, f)`` items that each profile's user chose next.
        log_frequency: ``(B,)`` ln q of the items, up to a constant.
    """
    equal = (chosen.unsqueeze(2) == item_idx).any(1)
    equal[torch.arange(len(own)), own] = False
    logits = cos_sim(profiles, items) / temperature
    if log_frequency is not None:
        logits = logits - log_frequency
    return torch.nn.functional.cross_entropy(logits.masked_fill(equal, -torch.inf), own)


class Contrastive:
    """Trains a text encoder batch by batch, on one process or many (``accelerate launch``).

    Unlike in sentence-transformers' trainer the profiles of a batch are written when it comes, and optimiser and
    schedule go through all rounds. Dropout stays off: a batch's loss depends on nothing but the batch.

    ``learning_rate`` is that of the first batch; ``counts`` ``(I,)`` is how often each item comes next in the training
    sessions, for ``correct_popularity``.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        config: ContrastiveConfig,
        learning_rate: float,
        accelerator: Accelerator | None = None,
        counts: np.ndarray | None = None,
    ) -> None:
        self.accelerator = accelerator or Accelerator(cpu=not torch.cuda.is_available())
        check_batch("cl.batch_size", config.batch_size, self.accelerator)
        self.encoder, self.config, self.learning_rate = encoder.eval(), config, learning_rate
        self.parameters = [weights for weights in encoder.parameters() if weights.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, weight_decay=config.weight_decay
        )
        self.log_frequency = None
        if config.correct_popularity and counts is not None:
            frequency = torch.from_numpy(np.maximum(counts, 1).astype(np.float32))
            self.log_frequency = frequency.log().to(encoder.device)
        self.step = 0
        self._pace = Pace(config.checkpoint_steps)

    def train_step(
        self,
        profiles: Sequence[str],
        texts: Sequence[str],
        item_idx: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> Metrics:
        """Learn from ``b`` profiles of this process and ``texts (b,)``, ``item_idx (b,)`` of a next item of each.

        ``chosen (b, f)`` are all next items of each profile's user, where there are others. Return metrics: ``loss``
        and ``accuracy`` (share of profiles nearest to their own item) of the batch of all processes, ``update_tokens``
        of this one.
        """
        begun = perf_counter()
        rate = self.learning_rate * (1 - self.step / self.config.steps)
        self.optimizer.param_groups[0]["lr"] = rate
        profile_vectors, profile_tokens = self._embed(profiles)
        item_vectors, item_tokens = self._embed(texts)
        # the items of all processes, with gradients
        items = all_gather_with_grad(item_vectors) if self.accelerator.num_processes > 1 else item_vectors
        rows: Any = self.accelerator.gather(torch.from_numpy(item_idx).to(items.device))
        place = len(profiles) * self.accelerator.process_index
        places = torch.arange(place, place + len(profiles), device=items.device)
        next_items = torch.from_numpy(item_idx[:, None] if chosen is None else chosen).to(items.device)
        frequency = None if self.log_frequency is None else self.log_frequency[rows]
        loss = contrastive_loss(
            profile_vectors, items, places, next_items, rows, self.config.temperature, frequency
        )
        self.optimizer.zero_grad()
        loss.backward()
        self._average_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            correct = (rows[cos_sim(profile_vectors, items).argmax(1)] == rows[places]).float().mean()
            means: Any = self.accelerator.gather(torch.stack([loss, correct]).unsqueeze(0))
        metrics = dict(zip(("loss", "accuracy"), means.mean(0).tolist(), strict=True))
        metrics |= {"learning_rate": rate, "update_tokens": float(profile_tokens + item_tokens)}
        return metrics | {"update_seconds": perf_counter() - begun}

    def save(self, folder: Path, last: bool = True) -> None:
        """Write a checkpoint ``folder/step-000012``, complete or not at all; the one before is deleted.

        One that is not the ``last`` is left out where ``checkpoint_steps`` asks for none.
        """
        save_checkpoint(folder, self.step, self._write, self.accelerator, 1, self._pace, last)

    def _write(self, folder: Path) -> None:
        state = self.encoder.state_dict()
        weights = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        save_file(weights, folder / "encoder.safetensors")
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps({"step": self.step}), encoding="utf-8")

    def resume(self, folder: Path) -> bool:
        """Go on from the latest checkpoint in ``folder``; return False if there is none."""
        *_, path = [None, *checkpoints(folder)]
        if path is None:
            return False
        with reading(path):
            state, optimizer = read_state(path), read_optimizer(path, self.optimizer)
            self.encoder.load_state_dict(load_file(path / "encoder.safetensors"))
            self.optimizer.load_state_dict(optimizer)
            self.step = state["step"]
        return True

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Return embeddings with gradients, and how many tokens were read."""
        features: Any = batch_to_device(self.encoder.preprocess(list(texts)), self.encoder.device)
        # a static embedding model has no mask, and pads nothing
        mask = features.get("attention_mask", features["input_ids"])
        return self.encoder(features)["sentence_embedding"], int((mask > 0).sum())

    def _average_gradients(self) -> None:
        """Make gradients their mean over the processes: that of one process with the whole batch."""
        if self.accelerator.num_processes > 1:
            gradients = [weights.grad for weights in self.parameters if weights.grad is not None]
            whole: Any = self.accelerator.reduce(parameters_to_vector(gradients), "mean")
            vector_to_parameters(whole, gradients)


class CandidateRanker:
    """Ranks candidate items for a text by cosine, while the encoder is trained.

    The backbone ``similarity`` evaluates by the same cosines. A reward must not pay for an empty profile: among equal
    scores the relevant item ranks last, not in a random order. ``texts`` are those of all items, ``candidates (c,)``
    the item_idx, ascending, that are ranked.
    """

    def __init__(self, encoder: TextEncoder, texts: Sequence[str], candidates: np.ndarray) -> None:
        self.encoder, self.texts, self.candidates = encoder, texts, candidates
        self.place = np.full(len(texts) + 1, NONE)
        self.place[candidates] = np.arange(len(candidates))
        self._items: Tensor | None = None

    def changed(self) -> None:
        """Forget the items' embeddings: the encoder was trained."""
        self._items = None

    @property
    def items(self) -> Tensor:
        """``(c, t)`` embeddings of the candidates, of length one."""
        if self._items is None:
            self._items = self.embed([self.texts[int(item)] for item in self.candidates])
        return self._items

    def scores(self, profiles: Sequence[str], histories: np.ndarray) -> Tensor:
        """Return ``(n, c)`` cosines, -inf for the items of the history ``(n, h)`` (item_idx, -1: none)."""
        scores = self.embed(profiles) @ self.items.T
        known = self.place[histories]
        rows, columns = np.nonzero(known != NONE)
        scores[torch.from_numpy(rows), torch.from_numpy(known[rows, columns])] = -torch.inf
        return scores

    def ranks(self, profiles: Sequence[str], histories: np.ndarray, future: np.ndarray) -> Tensor:
        """Return ``(n, f)`` ranks of the future items ``(n, f)`` (item_idx, all candidates), the best 1."""
        scores = self.scores(profiles, histories)
        relevant = scores.gather(1, torch.from_numpy(self.place[future]))
        return (scores.unsqueeze(1) >= relevant.unsqueeze(2)).sum(2)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return ``(n, t)`` embeddings of texts, of length one."""
        return torch.nn.functional.normalize(torch.from_numpy(self.encoder.encode(texts)), dim=1)


def ndcg(ranks: Tensor, at: int | None = None) -> Tensor:
    """Return ``(n,)`` NDCG of rankings in which the ``f`` relevant items have ``ranks (n, f)``; ``at`` is K, None all.

    ``Σ 1/log2(rank + 1)`` over the ranks up to K, over the same sum for ranks 1 to min(f, K); between 0 and 1.
    """
    best = torch.arange(1, min(ranks.shape[1], at or ranks.shape[1]) + 1, device=ranks.device)
    gain, most = (1.0 / torch.log2(places.float() + 1) for places in (ranks, best))
    counted = gain if at is None else gain * (ranks <= at)
    return counted.sum(1) / most.sum()


def mrr(ranks: Tensor, at: int | None = None) -> Tensor:
    """Return ``(n,)`` 1 over the rank of the first relevant item; 0 where it is behind ``at``."""
    first = ranks.min(1).values
    return (1.0 / first.float()) * (first <= (at or first))


REWARDS: dict[str, Callable[[Tensor, int | None], Tensor]] = {"ndcg": ndcg, "mrr": mrr}


class SystemReward:
    """NDCG or MRR (``name``) of the first ``at`` ranks, or all; a :class:`~reclm.profilers.rl.loop.Reward`.

    ``rows`` ``(n,)`` are the sessions that the prompts are of.
    """

    def __init__(
        self,
        ranker: CandidateRanker,
        histories: SessionHistories,
        rows: np.ndarray,
        name: str,
        at: int | None = None,
    ) -> None:
        self.ranker, self.histories, self.rows = ranker, histories, rows
        self.measure, self.at = REWARDS[name], at

    def __call__(self, texts: Sequence[str], rows: Sequence[int]) -> list[float]:
        """Return a number for each answer; ``rows`` are the numbers of the prompts that they answer."""
        sessions, at = self.histories.sessions, self.rows[list(rows)]
        profiles = [finished(self.histories.config, text) for text in texts]
        ranks = self.ranker.ranks(profiles, sessions.history[at], sessions.future[at])
        return self.measure(ranks, self.at).tolist()

    def watch(self, rollout: Rollout, rows: Sequence[int]) -> Metrics:
        """Return measures of how the answers read; see :func:`interpretability`."""
        profiles = [finished(self.histories.config, text) for text in rollout.texts]
        sources = self.histories.sources(self.rows[list(rows)].tolist())
        return interpretability(profiles, sources, (~rollout.unfinished).tolist())
