"""Contrastive learning and RLSO in turns (LangPTune, arXiv 2410.18870, Algorithm 1)."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reclm.console import progress_bar
from reclm.profilers.langptune.contrastive import Contrastive
from reclm.profilers.langptune.profile_cache import KeptProfiles
from reclm.profilers.langptune.prompts import profile_chat
from reclm.profilers.langptune.readability import interpretability
from reclm.profilers.langptune.recommender import TextRecommender
from reclm.profilers.langptune.rewards import SystemReward
from reclm.profilers.langptune.run_folder import ADAPTER, ENCODER
from reclm.profilers.langptune.writer import SessionWriter, Written
from reclm.profilers.rl import checkpoints
from reclm.profilers.rl.loop import batch_rows
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicyGenerator
from reclm.profilers.tuning.load_model import load_network
from reclm.profilers.tuning.metrics_log import Journal
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import Tuning

_CL_SEED = 7
"""Draws other sessions for contrastive learning than for RLSO."""


class Alternation:
    """Algorithm 1: K times, J batches of contrastive learning, then T updates of the policy."""

    def __init__(self, tuning: "Tuning") -> None:
        self.tuning = tuning
        config, folder = tuning.config, tuning.folder
        recommends, writes = config.trains
        self.accelerator = tuning.accelerator
        self.main = self.accelerator.is_main_process
        encoder = tuning.first_encoder
        if recommends:
            encoder = TextEncoder(encoder.source, encoder.device)
        self.recommender = TextRecommender(encoder, tuning.histories.lines, tuning.sessions.items)
        self.reward = SystemReward(self.recommender, tuning.histories, tuning.train_rows, config.reward)
        self.cl = self.rlso = None
        self.kept: KeptProfiles | None = None
        self.paid: set[int] = set()
        if recommends:
            rate = config.cl.learning_rate if writes else config.cl.learning_rate_alone
            learned = tuning.sessions.future[tuning.train_rows].ravel()
            counts = np.bincount(learned, minlength=len(tuning.view.items))
            self.cl = Contrastive(encoder.model, config.cl, rate, self.accelerator, counts)
            self.cl.resume(folder / "cl" / "checkpoints")
        if config.source == "profile":
            network = load_network(tuning.model, full=config.lora.whole and writes)
            sampler = PolicyGenerator(network, tuning.model)
            self.writer = SessionWriter(tuning.histories, tuning.prompts, sampler)
            if writes:
                parts = map(tuning.histories.parts, tuning.train_rows.tolist())
                prompts = [self.writer.ids(profile_chat(some[0], config.prompts)) for some in parts]
                # the network that the sampler has gets the adapter
                policy = Policy.adapt(network, config.lora, seed=config.seed)
                seeded = config.rlso.model_copy(update={"seed": config.seed + config.rlso.seed})
                self.rlso = RLSO(policy, sampler, prompts, self.reward, seeded, self.accelerator)
                self.rlso.watch = self.reward.watch
                self.rlso.resume(folder / "rlso" / "checkpoints")

    def run(self) -> None:
        """All rounds, and what they lead to: ``encoder`` and ``adapter`` in the folder."""
        config, folder = self.tuning.config, self.tuning.folder
        for number in range(1, config.rounds + 1):
            if self.cl:
                self._contrast(self.cl, number * config.cl.steps // config.rounds, number)
                self.recommender.changed()
            if self.rlso:
                self._reinforce(self.rlso, number * config.rlso.steps // config.rounds, number)
        if self.main and self.cl:
            _whole(folder / ENCODER, self.recommender.encoder.model.save)
        if self.main and self.rlso:
            network = self.rlso.policy.network
            _whole(folder / ADAPTER, lambda path: network.save_pretrained(path, save_embedding_layers=False))
        self.accelerator.wait_for_everyone()

    def _contrast(self, cl: Contrastive, until: int, number: int) -> None:
        """Batches of profiles sampled from the policy as it is, each with an item that came next."""
        tuning, config = self.tuning, self.tuning.config
        folder, sessions = tuning.folder / "cl", tuning.sessions
        begun = (number - 1) * config.cl.steps // config.rounds
        if cl.step >= until:
            return
        if config.source == "profile" and config.cl.reuse:
            self.kept = self._kept(number)
            # a policy that stands still has written in the rounds before, too
            since = begun if self.rlso else 0
            self.paid = {row for step in range(since, cl.step) for row in self._drawn(step)[0]}
        journal = Journal(folder, cl.step) if self.main else None
        title = f"contrastive learning, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, tuning.progress) as advance:
            advance(cl.step - begun)
            while cl.step < until:
                rows, seeds = self._drawn(cl.step)
                profiles, metrics = self.profiles(rows, seeds)
                chosen = sessions.future[rows]
                # of several next items one, drawn anew each time
                items = chosen[np.arange(len(rows)), np.array(seeds) % chosen.shape[1]]
                texts = [tuning.histories.lines[item] for item in items.tolist()]
                metrics = cl.train_step(profiles, texts, items, chosen) | metrics
                if journal:
                    journal.add(cl.step, metrics)
                if cl.step % config.cl.checkpoint_steps == 0 or cl.step == until:
                    cl.save(folder / "checkpoints")
                advance(1, f"{title}: loss {metrics['loss']:.2f}")
        if journal:
            journal.close()

    def _drawn(self, step: int) -> tuple[list[int], list[int]]:
        """The sessions of a batch, and a seed for each."""
        config, rows = self.tuning.config, self.tuning.train_rows
        at, seeds = batch_rows(
            step,
            config.cl.batch_size,
            len(rows),
            config.seed + _CL_SEED,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        return rows[at].tolist(), seeds

    def profiles(self, rows: list[int], seeds: list[int]) -> tuple[list[str], dict[str, float]]:
        """What σ embeds for the users: profiles sampled from the policy, and what they are like; or the histories."""
        if self.tuning.config.source == "history":
            return self.tuning.histories.texts(rows), {}
        written = self._reused(rows) if self.tuning.config.cl.reuse else self._sampled(rows, seeds)
        own = interpretability(written.texts, self.tuning.histories.sources(rows), written.ended)
        means: Any = torch.tensor(list(own.values()), device=self.accelerator.device)
        means = self.accelerator.reduce(means, "mean")
        of_all = dict(zip(own, means.tolist(), strict=True))
        return written.texts, of_all | {
            "rollout_seconds": written.seconds,
            "rollout_tokens": written.tokens / written.seconds if written.seconds else 0.0,
        }

    def _sampled(self, rows: list[int], seeds: list[int]) -> Written:
        config = self.tuning.config
        return self.writer.sampled(rows, config.rlso.sampling, config.writing, seeds)

    def _reused(self, rows: list[int]) -> Written:
        """Each session's one profile of this policy, written where it is not yet.

        Its time counts where it is first drawn, also if another run wrote it: what a training takes does not depend on
        what ran before.
        """
        assert self.kept is not None
        if new := self.kept.missing(rows):
            # a seed of its own: what a session's profile reads does not depend on when it is drawn
            seeds = np.random.default_rng(self.tuning.config.seed + _CL_SEED).integers(
                2**31, size=1 + max(new)
            )
            self.kept.add(new, self._sampled(new, seeds[new].tolist()))
        first = [row for row in dict.fromkeys(rows) if row not in self.paid]
        self.paid.update(first)
        return self.kept.get(rows, first)

    def _kept(self, number: int) -> KeptProfiles:
        """What the policy of round ``number`` wrote: what it writes untrained, other tunings may have written, too."""
        tuning, config = self.tuning, self.tuning.config
        own = tuning.folder / "cl" / "profiles"
        if number > 1 and config.trains[1]:
            return KeptProfiles(own, [f"round {number}", config.writing.model_dump_json()])
        how = f"seed {config.seed}" + ", in float32" * (config.lora.whole and config.trains[1])
        return tuning.kept(own, tuning.model.name, config.rlso.sampling, config.writing, more=how)

    def _reinforce(self, rlso: RLSO, until: int, number: int) -> None:
        """Updates of the policy, with the recommender as contrastive learning left it."""
        config, folder = self.tuning.config, self.tuning.folder / "rlso"
        begun = (number - 1) * config.rlso.steps // config.rounds
        steps = folder / "checkpoints"
        if rlso.step >= until:
            return
        if config.prompts.fold is not None:
            rlso.prompts = self._round_prompts(number)
        journal = Journal(folder, rlso.step) if self.main else None
        title = f"RLSO, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, self.tuning.progress) as advance:
            advance(rlso.step - begun)
            before = dict(self.recommender.seconds)
            for metrics in islice(rlso.run(), until - rlso.step):
                after = dict(self.recommender.seconds)
                parts = {f"{name}_seconds": after[name] - one for name, one in before.items()}
                before = after
                if journal:
                    journal.add(rlso.step, metrics | parts)
                rlso.save(steps)
                if self.main:
                    checkpoints.keep(steps, 1)
                advance(1, f"{title}: reward {metrics['reward']:.3f}, KL {metrics['kl']:.1f}")
        if journal:
            journal.close()

    def _round_prompts(self, number: int) -> list[list[int]]:
        """The question that a round's policy learns to answer: the last one, where histories are folded.

        What comes before it is written by the policy that begins the round, once: it is kept for a run that goes on.
        """
        path = self.tuning.folder / "rlso" / f"round-{number}.json"
        if not path.is_file():
            chats = self.writer.chats(self.tuning.train_rows.tolist(), self.tuning.config.writing)
            ids = [self.writer.ids(chat) for chat in chats.values()]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(ids), encoding="utf-8")
            os.replace(partial, path)
        return json.loads(path.read_text(encoding="utf-8"))


def _whole(folder: Path, save: Callable[[str], object]) -> None:
    """Have ``folder`` written as a whole or not at all; what lies there is replaced."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(str(partial))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
