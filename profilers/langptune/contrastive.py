"""Contrastive learning of the recommender on profiles and next items (LangPTune, arXiv 2410.18870, equation 7)."""

import json
import os
import shutil
from collections.abc import Sequence
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

from reclm.errors import ReclmError
from reclm.profilers.langptune.config import ContrastiveConfig

Metrics = dict[str, float]


def info_nce(
    profiles: Tensor,
    items: Tensor,
    own: Tensor,
    chosen: Tensor,
    item_idx: Tensor,
    temperature: float,
    log_frequency: Tensor | None = None,
) -> Tensor:
    """InfoNCE over the items of the batch: ``-ln exp(s_b,b / τ) / Σ_i exp(s_b,i / τ)``, mean over profiles.

    ``s`` is the cosine; with ``log_frequency`` it is ``s_b,i / τ - ln q_i`` whose exponents are compared. What a
    profile's user chose next is no negative of it, whoever brought it to the batch. Without these masks it is
    sentence-transformers' MultipleNegativesRankingLoss (a test compares them).

    Args:
        profiles: ``(b, t)`` embeddings.
        items: ``(B, t)`` embeddings of the batch's items, of other processes, too.
        own: ``(b,)`` places in ``items`` of the item that each profile is to be near to.
        chosen: ``(b, f)`` which items each profile's user chose next.
        item_idx: ``(B,)`` which items ``items`` are.
        temperature: τ.
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

    sentence-transformers' own trainer wants its data, its optimiser and its schedule once; here the profiles of a
    batch are written when it comes, and optimiser and schedule go through all rounds.

    Args:
        encoder: what is trained; dropout stays off, so that a batch's loss depends on nothing but the batch.
        config: options.
        learning_rate: of the first batch.
        accelerator: by default a new one.
        counts: ``(I,)`` how often each item comes next in what is learned from, for ``correct_popularity``.

    Raises:
        ReclmError: if batches cannot be shared evenly by the processes.

    Attributes:
        step: batches done.
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
        if config.batch_size % self.accelerator.num_processes:
            raise ReclmError(
                f"cl.batch_size = {config.batch_size} cannot be shared evenly by "
                f"{self.accelerator.num_processes} processes; make it a multiple"
            )
        self.encoder, self.config, self.learning_rate = encoder.eval(), config, learning_rate
        self.parameters = [one for one in encoder.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=learning_rate, weight_decay=config.weight_decay
        )
        self.log_frequency = None
        if config.correct_popularity and counts is not None:
            frequency = torch.from_numpy(np.maximum(counts, 1).astype(np.float32))
            self.log_frequency = frequency.log().to(encoder.device)
        self.step = 0

    def train_step(
        self,
        profiles: Sequence[str],
        texts: Sequence[str],
        item_idx: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> Metrics:
        """One batch.

        Args:
            profiles, texts: ``b`` profiles of this process, and the text of a next item of each.
            item_idx: ``(b,)`` which items these are.
            chosen: ``(b, f)`` all next items of each profile's user, where there are others.

        Returns:
            Of the batch of all processes ``loss`` and ``accuracy`` (share of profiles nearest to their own item);
            ``learning_rate``, ``update_seconds``, and of this process ``update_tokens``.
        """
        begun = perf_counter()
        rate = self.learning_rate * (1 - self.step / self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        (ours, written), (theirs, read) = self._embed(profiles), self._embed(texts)
        # of all processes, with gradients
        many = self.accelerator.num_processes > 1
        items = all_gather_with_grad(theirs) if many else theirs
        which = self._all(torch.from_numpy(item_idx).to(items.device))
        own = torch.arange(len(profiles), device=items.device)
        own += len(profiles) * self.accelerator.process_index
        next_items = torch.from_numpy(item_idx[:, None] if chosen is None else chosen).to(items.device)
        frequency = None if self.log_frequency is None else self.log_frequency[which]
        loss = info_nce(ours, items, own, next_items, which, self.config.temperature, frequency)
        self.optimizer.zero_grad()
        loss.backward()
        self._share()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            right = (which[cos_sim(ours, items).argmax(1)] == which[own]).float().mean()
            means = self._all(torch.stack([loss, right]).unsqueeze(0)).mean(0).tolist()
        return {
            "loss": means[0],
            "accuracy": means[1],
            "learning_rate": rate,
            "update_seconds": perf_counter() - begun,
            "update_tokens": float(written + read),
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint ``folder/step-000012``, complete or not at all; the one before is deleted.

        Raises:
            OSError, RuntimeError, SafetensorError: if it cannot be written.
        """
        path = folder / f"step-{self.step:06d}"
        if self.accelerator.is_main_process:
            partial = path.with_name(path.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            state = {name: one.detach().cpu().contiguous() for name, one in self.encoder.state_dict().items()}
            save_file(state, partial / "encoder.safetensors")
            torch.save(self.optimizer.state_dict(), partial / "optimizer.pt")
            (partial / "state.json").write_text(json.dumps({"step": self.step}), encoding="utf-8")
            shutil.rmtree(path, ignore_errors=True)
            os.replace(partial, path)
            for old in folder.glob("step-*"):
                if old != path:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def resume(self, folder: Path) -> bool:
        """Go on from the latest checkpoint in ``folder``; False if there is none.

        Raises:
            ReclmError: if it is damaged, or of another encoder.
        """
        found = sorted(one for one in folder.glob("step-*") if one.suffix != ".partial")
        if not found:
            return False
        path = found[-1]
        try:
            self.encoder.load_state_dict(load_file(path / "encoder.safetensors"))
            state = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(state)
            self.step = int(json.loads((path / "state.json").read_text(encoding="utf-8"))["step"])
        except Exception as error:  # of many classes: torch's, safetensors', json's
            reason = " ".join(str(error).split())[:200]
            raise ReclmError(
                f"the checkpoint {path} is damaged, or of another encoder; delete it ({reason})"
            ) from error
        return True

    def _embed(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Embeddings with gradients, and how many tokens were read."""
        features: Any = batch_to_device(self.encoder.preprocess(list(texts)), self.encoder.device)
        # a static embedding model has no mask, and pads nothing
        mask = features.get("attention_mask", features["input_ids"])
        return self.encoder(features)["sentence_embedding"], int((mask > 0).sum())

    def _all(self, ours: Tensor) -> Tensor:
        """Of all processes, one behind the other."""
        gathered: Any = self.accelerator.gather(ours)
        return gathered

    def _share(self) -> None:
        """Gradients become their mean over the processes: that of one process with the whole batch."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        whole: Any = self.accelerator.reduce(parameters_to_vector(gradients), "mean")
        vector_to_parameters(whole, gradients)
