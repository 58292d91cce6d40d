"""LangPTune's training: contrastive learning and RLSO in turns (arXiv 2410.18870, Algorithm 1).

What is done stays done: sessions, checkpoints and measurements lie in the folder; a run that was broken goes on there.
"""

import json
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator

from reclm.data.dataset import TrainingView
from reclm.data.sessionise import make_sessions
from reclm.data.sessions import HEAD, Sessions
from reclm.profilers.journal import Journal, writing
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.contrastive import Contrastive
from reclm.profilers.langptune.histories import Histories
from reclm.profilers.langptune.interpretability import interpretability
from reclm.profilers.langptune.prompts import profile_chat
from reclm.profilers.langptune.recommender import TextRecommender
from reclm.profilers.langptune.rewards import SystemReward
from reclm.profilers.langptune.tuned import ADAPTER, ENCODER, Tuned
from reclm.profilers.langptune.writer import SessionWriter
from reclm.profilers.network import load_network, quiet
from reclm.profilers.policy import checkpoints
from reclm.profilers.policy.model import Policy
from reclm.profilers.policy.order import batch_rows
from reclm.profilers.policy.rlso import RLSO
from reclm.profilers.policy.rollout import PolicyGenerator
from reclm.progress import progress_bar
from reclm.text.encoder import TextEncoder
from reclm.text.models import LanguageModel, context_length, load_tokenizer
from reclm.text.prompt_tokens import PromptTokenizer

if TYPE_CHECKING:
    from rich.table import Table

_CL_SEED = 7
"""Draws other sessions for contrastive learning than for RLSO."""


class Tuning:
    """A run of the variant that ``config`` names.

    Args:
        view: the training part.
        config: see :class:`LangPTuneConfig`.
        model: writes the profiles.
        folder: where; what was done there with the same options is not done again.
        asked_model: the name that ``model`` was found by.
        encoder: what σ begins as; it is not changed itself.
        progress: show bars and say what is done, on stderr.

    Raises:
        ReclmError: if ``folder`` holds another tuning, or the model has no chat template.
    """

    def __init__(
        self,
        view: TrainingView,
        config: LangPTuneConfig,
        model: LanguageModel,
        folder: Path,
        *,
        asked_model: str | None = None,
        encoder: TextEncoder | None = None,
        progress: bool = True,
    ) -> None:
        self.view, self.config, self.model, self.folder, self.progress = view, config, model, folder, progress
        self.prompts = PromptTokenizer(load_tokenizer(model), context_length(model), model.name)
        self.first_encoder = encoder or TextEncoder()
        self.tuned = Tuned.begin(folder, config, view, model, asked_model, self.first_encoder.name)

    def run(self) -> None:
        """Train what is not trained yet.

        Raises:
            ReclmError: if something cannot be written, or a checkpoint is damaged.
        """
        if self.tuned.done:
            return
        with quiet(), writing(self.folder):
            self.warn_truncation()
            if any(self.config.trains):
                Alternation(self).run()
            self.tuned.finish()

    def results(self) -> "list[Table | str]":
        """Measure on the test sessions what is not measured yet, and write report and curves; tables to be printed."""
        from reclm.profilers.langptune.report import results

        with quiet(), writing(self.folder):
            return results(self)

    def shown(self, count: int) -> Iterator[str]:
        """``count`` prompts as a person reads them, each with the items that come next."""
        histories, sessions = self.histories, self.sessions
        yield f"{len(sessions):,} sessions: {len(sessions.rows('train')):,} to train on"
        for row in sessions.rows("train")[:count].tolist():
            chat = profile_chat(histories.parts(row)[0], self.config.prompts)
            wanted = "; ".join(histories.lines[item] for item in sessions.future[row].tolist())
            yield f"══ user {self.view.users.ids(sessions.users[row : row + 1])[0]}"
            yield f"{chat.messages[0].content}\n── begins: {chat.answer_start or '(nothing)'}\n── next: {wanted}"

    def estimate(self) -> "Table":
        """What every part would take: profiles, tokens, and time from what one batch takes here."""
        from reclm.profilers.langptune.preview import estimate

        with quiet():
            return estimate(self)

    @cached_property
    def sessions(self) -> Sessions:
        """Made once, in ``folder/sessions``."""
        folder = self.folder / "sessions"
        if (folder / HEAD).is_file():
            return Sessions.load(folder, self.view.fingerprint)
        made = make_sessions(
            self.view,
            self.config.sessions,
            encoder_tokens=self.first_encoder.tokens,
            model_tokens=self._model_tokens,
            progress=self.progress,
        )
        made.save(folder)
        return made

    @cached_property
    def histories(self) -> Histories:
        """What prompts show of the sessions."""
        return Histories(self.view, self.sessions, self.config.prompts)

    @cached_property
    def train_rows(self) -> np.ndarray:
        """Sessions that are learned from."""
        rows = self.sessions.rows("train")
        drawn = np.random.default_rng([self.config.seed, 1]).permutation(rows)
        return np.sort(drawn[: max(2, round(self.config.train_ratio * len(rows)))])

    def recommender(self, encoder: TextEncoder | None = None) -> TextRecommender:
        """σ: as it was tuned; as it came where it was not, or with ``encoder``."""
        if encoder is None:
            tuned = self.tuned.encoder
            encoder = TextEncoder(str(tuned)) if tuned else self.first_encoder
        return TextRecommender(encoder, self.histories.lines, self.sessions.items)

    def warn_truncation(self) -> None:
        """Say what the encoder will not read of items and histories, and of profiles as far as is known."""
        encoder, config = self.first_encoder, self.config
        read = {"item texts": [self.histories.lines[item] for item in self.sessions.items.tolist()]}
        if config.source == "history":
            read["histories"] = self.histories.texts(self.train_rows.tolist())
        for what, texts in read.items():
            if share := encoder.truncated(texts):
                self.say(
                    f"warning: the encoder reads {encoder.window:g} tokens, which cuts {share:.1%} of the {what}"
                )
        if config.source == "profile" and config.rlso.max_new_tokens > encoder.window:
            self.say(
                f"warning: profiles may have {config.rlso.max_new_tokens} tokens, and the encoder reads "
                f"{encoder.window:g}; what share is cut is said at the end"
            )

    def say(self, text: str) -> None:
        """Tell what is done, on stderr."""
        if self.progress:
            print(text, file=sys.stderr)

    def _model_tokens(self, texts: Any) -> list[int]:
        return [
            len(one) for one in self.prompts.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ]


class Alternation:
    """Algorithm 1: K times, J batches of contrastive learning, then T updates of the policy."""

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning
        config, folder = tuning.config, tuning.folder
        recommends, writes = config.trains
        self.accelerator = Accelerator()
        self.main = self.accelerator.is_main_process
        encoder = TextEncoder(tuning.first_encoder.source) if recommends else tuning.first_encoder
        self.recommender = TextRecommender(encoder, tuning.histories.lines, tuning.sessions.items)
        self.reward = SystemReward(self.recommender, tuning.histories, tuning.train_rows, config.reward)
        self.cl = self.rlso = None
        if recommends:
            rate = config.cl.learning_rate if writes else config.cl.learning_rate_alone
            self.cl = Contrastive(encoder.model, config.cl, rate, self.accelerator)
            self.cl.resume(folder / "cl" / "checkpoints")
        if config.source == "profile":
            policy = Policy.adapt(
                load_network(tuning.model, full=config.lora.whole), config.lora, seed=config.seed
            )
            sampler = PolicyGenerator(policy.base, tuning.model)
            self.writer = SessionWriter(tuning.histories, tuning.prompts, sampler)
        if writes:
            parts = map(tuning.histories.parts, tuning.train_rows.tolist())
            prompts = [self.writer.ids(profile_chat(some[0], config.prompts)) for some in parts]
            self.rlso = RLSO(policy, sampler, prompts, self.reward, config.rlso, self.accelerator)
            self.rlso.watch = self.reward.watch
            if not self.rlso.resume(folder / "rlso" / "checkpoints"):
                self.rlso.save(folder / "rlso" / "checkpoints")

    def run(self) -> None:
        """All rounds, and what they lead to: ``encoder`` and ``adapter`` in the folder."""
        config, folder = self.tuning.config, self.tuning.folder
        for number in range(1, config.rounds + 1):
            if self.cl:
                self._contrast(self.cl, number * config.cl.steps // config.rounds, number)
                self.recommender.changed()
            if self.rlso:
                self._reinforce(self.rlso, number * config.rlso.steps // config.rounds, number)
        if self.main:
            if self.cl:
                self.recommender.encoder.model.save(str(folder / f"{ENCODER}.partial"))
                os.replace(folder / f"{ENCODER}.partial", folder / ENCODER)
            if self.rlso:
                self.rlso.policy.network.save_pretrained(
                    str(folder / f"{ADAPTER}.partial"), save_embedding_layers=False
                )
                os.replace(folder / f"{ADAPTER}.partial", folder / ADAPTER)
        self.accelerator.wait_for_everyone()

    def _contrast(self, cl: Contrastive, until: int, number: int) -> None:
        """Batches of profiles sampled from the policy as it is, each with the item that came next."""
        tuning, config = self.tuning, self.tuning.config
        folder, sessions = tuning.folder / "cl", tuning.sessions
        begun = (number - 1) * config.cl.steps // config.rounds
        journal = Journal(folder, cl.step) if self.main else None
        title = f"contrastive learning, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, tuning.progress and self.main and cl.step < until) as advance:
            advance(cl.step - begun)
            while cl.step < until:
                at, seeds = batch_rows(
                    cl.step,
                    config.cl.batch_size,
                    len(tuning.train_rows),
                    config.seed + _CL_SEED,
                    self.accelerator.process_index,
                    self.accelerator.num_processes,
                )
                rows = tuning.train_rows[at].tolist()
                profiles, metrics = self.profiles(rows, seeds)
                items = sessions.future[rows, 0]
                texts = [tuning.histories.lines[item] for item in items.tolist()]
                metrics = cl.train_step(profiles, texts, items) | metrics
                if journal:
                    journal.add(cl.step, metrics)
                if cl.step % config.cl.checkpoint_steps == 0 or cl.step == until:
                    cl.save(folder / "checkpoints")
                advance(1, f"{title}: loss {metrics['loss']:.2f}")
        if journal:
            journal.close()

    def profiles(self, rows: list[int], seeds: list[int]) -> tuple[list[str], dict[str, float]]:
        """What σ embeds for the users: profiles sampled from the policy, and what they are like; or the histories."""
        if self.tuning.config.source == "history":
            return self.tuning.histories.texts(rows), {}
        begun = perf_counter()
        sampling = self.tuning.config.rlso.sampling
        chats = self.writer.chats(rows, self.tuning.config.writing)
        written = self.writer.write([chats[row] for row in rows], sampling, seeds)
        seconds = perf_counter() - begun
        kept = interpretability(written.texts, self.tuning.histories.sources(rows), written.ended)
        return written.texts, kept | {"rollout_seconds": seconds, "rollout_tokens": written.tokens / seconds}

    def _reinforce(self, rlso: RLSO, until: int, number: int) -> None:
        """Updates of the policy, with the recommender as contrastive learning left it."""
        config, folder = self.tuning.config, self.tuning.folder / "rlso"
        begun = (number - 1) * config.rlso.steps // config.rounds
        steps = folder / "checkpoints"
        if rlso.step >= until:
            return
        rlso.prompts = self._round_prompts(number)
        journal = Journal(folder, rlso.step) if self.main else None
        title = f"RLSO, round {number} of {config.rounds}"
        with progress_bar(title, until - begun, self.tuning.progress and self.main) as advance:
            advance(rlso.step - begun)
            for metrics in islice(rlso.run(), until - rlso.step):
                parts = {f"{name}_seconds": one for name, one in self.recommender.seconds.items()}
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
        if self.tuning.config.prompts.fold is None:
            assert self.rlso is not None
            return list(self.rlso.prompts)
        path = self.tuning.folder / "rlso" / f"round-{number}.json"
        if not path.is_file():
            chats = self.writer.chats(self.tuning.train_rows.tolist(), self.tuning.config.writing)
            ids = [self.writer.ids(chat) for chat in chats.values()]
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
            partial.write_text(json.dumps(ids), encoding="utf-8")
            os.replace(partial, path)
        return json.loads(path.read_text(encoding="utf-8"))
