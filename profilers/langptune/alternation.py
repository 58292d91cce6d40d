"""Contrastive learning and RLSO in turns (LangPTune, arXiv 2410.18870, Algorithm 1)."""

import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from reclm.console import progress_bar
from reclm.files import Journal, atomic_file, atomic_folder
from reclm.folders import current
from reclm.profilers.langptune.contrastive import Contrastive
from reclm.profilers.langptune.prompts import SessionWriter, Written, profile_chat
from reclm.profilers.langptune.readability import interpretability
from reclm.profilers.langptune.reward import SystemReward, TextRanker
from reclm.profilers.rl.loop import batch_rows
from reclm.profilers.rl.policy import Policy, PolicyGenerator
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.tuning.metrics_log import MetricsLog
from reclm.profilers.tuning.training import ADAPTER, load_network
from reclm.text.encoder import TextEncoder
from reclm.text.item_text import item_texts

if TYPE_CHECKING:
    from reclm.profilers.langptune.pipeline import LangPTunePipeline

ENCODER = "encoder"
_CL_SEED = 7
"""Draws other sessions for contrastive learning than for RLSO."""


class Alternation:
    """Algorithm 1: K times, J batches of contrastive learning, then T updates of the policy."""

    def __init__(self, tuning: "LangPTunePipeline") -> None:
        self.tuning = tuning
        config, folder = tuning.config, tuning.folder
        recommends, writes = config.trains
        self.accelerator = tuning.accelerator
        self.main = self.accelerator.is_main_process
        encoder = tuning.encoder
        if recommends:
            encoder = TextEncoder(encoder.source, encoder.device)
        self.item_texts = item_texts(tuning.view.item_text, tuning.view.text_template)
        self.ranker = TextRanker(encoder, self.item_texts, tuning.sessions.items)
        self.reward = SystemReward(self.ranker, tuning.histories, tuning.train_rows, config.reward)
        self.cl = self.rlso = None
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
        """Train all rounds, and write ``encoder`` and ``adapter`` to the folder."""
        config, folder = self.tuning.config, self.tuning.folder
        for number in range(1, config.rounds + 1):
            if self.cl:
                self._contrast(self.cl, number * config.cl.steps // config.rounds, number)
                self.ranker.changed()
            if self.rlso:
                self._reinforce(self.rlso, number * config.rlso.steps // config.rounds, number)
        if self.main and self.cl:
            with atomic_folder(folder / ENCODER) as draft:
                self.ranker.encoder.model.save(str(draft))
        if self.main and self.rlso:
            with atomic_folder(folder / ADAPTER) as draft:
                self.rlso.policy.network.save_pretrained(str(draft), save_embedding_layers=False)
        self.accelerator.wait_for_everyone()

    def _contrast(self, cl: Contrastive, until: int, number: int) -> None:
        """Learn from batches of profiles sampled from the policy as it is, each with an item that came next."""
        tuning, config = self.tuning, self.tuning.config
        folder, sessions = tuning.folder / "cl", tuning.sessions
        begun = (number - 1) * config.cl.steps // config.rounds
        if cl.step >= until:
            return
        samples = None
        if config.source == "profile" and config.cl.reuse:
            # a policy that stands still has written in the rounds before, too
            samples = self._samples(number)
            self._sample_round(samples, range(begun if self.rlso else 0, until), cl.step)
        log = MetricsLog(folder, cl.step) if self.main else None
        title = f"contrastive learning, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, tuning.progress) as advance:
            advance(cl.step - begun)
            while cl.step < until:
                rows, seeds = self._drawn(cl.step)
                texts, metrics = self._user_texts(rows, seeds, samples)
                future = sessions.future[rows]
                # of several next items one, drawn anew each time
                items = future[np.arange(len(rows)), np.array(seeds) % future.shape[1]]
                next_texts = [self.item_texts[item] for item in items.tolist()]
                metrics = cl.train_step(texts, next_texts, items, future) | metrics
                if log:
                    log.add(cl.step, metrics)
                if cl.step % config.cl.checkpoint_steps == 0 or cl.step == until:
                    cl.save(folder / "checkpoints")
                advance(1, f"{title}: loss {metrics['loss']:.2f}")
        if log:
            log.close()

    def _drawn(self, step: int) -> tuple[list[int], list[int]]:
        """Return the sessions of a batch, and a seed for each."""
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

    def _user_texts(
        self, rows: list[int], seeds: list[int], samples: "Samples | None"
    ) -> tuple[list[str], dict[str, float]]:
        """Return the users' texts of a batch, and how they read: sampled profiles, or the histories."""
        if self.tuning.config.source == "history":
            return self.tuning.histories.texts(rows), {}
        written = self._sampled(rows, seeds) if samples is None else samples.read(rows)
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
        return self.writer.profiles(rows, config.rlso.sampling, config.writing, seeds)

    def _sample_round(self, samples: "Samples", steps: range, at: int) -> None:
        """Sample one profile of each session that the steps draw, unless another run did."""
        drawn = [self._drawn(step)[0] for step in steps]
        samples.charged = {row for step, rows in zip(steps, drawn, strict=True) if step < at for row in rows}
        count = len(self.tuning.sessions)
        # a seed of its own: a session's profile does not depend on when it is drawn
        seeds = np.random.default_rng(self.tuning.config.seed + _CL_SEED).integers(2**31, size=count)
        with samples.locked(self.accelerator.process_index):
            missing = len(samples.missing([row for rows in drawn for row in rows]))
            with progress_bar("sampling profiles", missing, self.tuning.progress and missing > 0) as advance:
                for rows in drawn:
                    if new := samples.missing(rows):
                        samples.add(new, self._sampled(new, seeds[new].tolist()))
                        advance(len(new))

    def _samples(self, number: int) -> "Samples":
        """Return the samples of the policy of round ``number``: those of the untrained one serve other tunings, too."""
        tuning, config = self.tuning, self.tuning.config
        if number > 1 and config.trains[1]:
            return Samples(tuning.folder / "cl" / "samples", [number, config.writing.model_dump_json()])
        precision = "float32" if config.lora.whole and config.trains[1] else ""
        key = [tuning.prompt_key, config.rlso.sampling.model_dump_json(), config.writing.model_dump_json()]
        return Samples(current().cells() / "samples", [*key, config.seed, precision])

    def _reinforce(self, rlso: RLSO, until: int, number: int) -> None:
        """Update the policy, with the recommender as contrastive learning left it."""
        config, folder = self.tuning.config, self.tuning.folder / "rlso"
        begun = (number - 1) * config.rlso.steps // config.rounds
        steps = folder / "checkpoints"
        if rlso.step >= until:
            return
        if config.prompts.fold is not None:
            rlso.prompts = self._round_prompts(number)
        log = MetricsLog(folder, rlso.step) if self.main else None
        title = f"RLSO, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, self.tuning.progress) as advance:
            advance(rlso.step - begun)
            before = dict(self.ranker.seconds)
            for metrics in islice(rlso.run(), until - rlso.step):
                after = dict(self.ranker.seconds)
                parts = {f"{name}_seconds": after[name] - seconds for name, seconds in before.items()}
                before = after
                if log:
                    log.add(rlso.step, metrics | parts)
                rlso.save(steps, newest=1)
                advance(1, f"{title}: reward {metrics['reward']:.3f}, KL {metrics['kl']:.1f}")
        if log:
            log.close()

    def _round_prompts(self, number: int) -> list[list[int]]:
        """Return the question that a round's policy learns to answer: the last one, where histories are folded.

        The profiles before it are written by the policy that begins the round, once: they are saved for a run that
        goes on.
        """
        path = self.tuning.folder / "rlso" / f"round-{number}.json"
        if not path.is_file():
            chats = self.writer.chats(self.tuning.train_rows.tolist(), self.tuning.config.writing)
            ids = [self.writer.ids(chat) for chat in chats.values()]
            with atomic_file(path) as draft:
                draft.write_text(json.dumps(ids), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))


class Samples:
    """A file of profiles sampled in training, one a session. Several processes may add; the first profile counts.

    They are not profiles of a store: they are drawn at a temperature, for one seed, by several processes at once.

    Args:
        folder: is made when the first profiles are added.
        key: all that the profiles depend on.
    """

    def __init__(self, folder: Path, key: Sequence[Any]) -> None:
        name = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:12]
        self._file = Journal(folder / f"{name}.jsonl")
        self._rows: dict[int, dict[str, Any]] = {}
        self.charged: set[int] = set()
        """Sessions whose time was counted: it counts where a session is first drawn, whoever wrote its profile."""

    def locked(self, process: int) -> FileLock:
        """Keep other runs waiting; the processes of one launch write side by side."""
        self._file.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self._file.path.with_suffix(f".{process}.lock"))

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Return those of the sessions that have no profile yet, each once."""
        if not self._rows:
            for row in self._file.rows():
                self._rows.setdefault(row["session"], row)
        return [row for row in dict.fromkeys(rows) if row not in self._rows]

    def add(self, rows: Sequence[int], written: Written) -> None:
        """Save a profile for each session, each with its share of the tokens and seconds."""
        share = {"tokens": written.tokens / len(rows), "seconds": written.seconds / len(rows)}
        for row, text, ended in zip(rows, written.texts, written.ended, strict=True):
            self._rows[row] = {"session": row, "text": text, "ended": ended, **share}
            self._file.append(self._rows[row])
        self._file.close()

    def read(self, rows: Sequence[int]) -> Written:
        """Return the profiles of sessions, with the time of those that are drawn for the first time."""
        texts, ended = ([self._rows[row][name] for row in rows] for name in ("text", "ended"))
        first = set(rows) - self.charged
        self.charged |= first
        tokens, seconds = (sum(self._rows[row][name] for row in first) for name in ("tokens", "seconds"))
        return Written(texts, ended, round(tokens), seconds)
