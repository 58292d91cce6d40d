"""LangPTune's training: contrastive learning and RLSO in turns (arXiv 2410.18870, Algorithm 1).

Sessions, checkpoints and weights lie in the folder; a run that was interrupted goes on there.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import Field, TypeAdapter
from rich.table import Table

from reclm.console import progress_bar
from reclm.data.dataset import Dataset
from reclm.data.sessions import Sessions, next_item
from reclm.data.storage import is_dataset, load_folder
from reclm.errors import Damaged
from reclm.files import atomic_file, atomic_folder
from reclm.folders import current
from reclm.profilers.langptune import report
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.profiler import ENCODER, Tuned
from reclm.profilers.langptune.prompts import Samples, SessionHistories, SessionWriter, Written, profile_chat
from reclm.profilers.langptune.recommender import CandidateRanker, Contrastive, SystemReward
from reclm.profilers.rl.decoder import SplitDecoder
from reclm.profilers.rl.loop import batch_rows
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicySampler
from reclm.profilers.tuning.adapter import ADAPTER
from reclm.profilers.tuning.checkpoints import CHECKPOINTS, check_room
from reclm.profilers.tuning.metrics_log import MetricsLog, writing
from reclm.profilers.tuning.pipeline import Tuning
from reclm.profilers.tuning.readability import interpretability
from reclm.profilers.tuning.training import load_network, quiet
from reclm.text.encoder import TextEncoder
from reclm.text.item_text import item_texts

_PROMPTS = TypeAdapter(list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]])
_CL_SEED = 7
"""Draws other sessions for contrastive learning than for RLSO."""


class LangPTunePipeline(Tuning):
    """A run of the variant that ``config`` names, on one process or many (``accelerate launch``).

    Of many, the first writes what they share, and alone measures. The sessions of ``view`` are learned from, or those
    made of it. See :class:`~reclm.profilers.tuning.pipeline.Tuning`.
    """

    Folder = Tuned
    config: LangPTuneConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # with cpu=True accelerate makes a group of processes on CPUs
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.progress = self.progress and self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            self.tuned: Tuned = self.begin(encoder=self.encoder.name)
            self.tuned.write()

    def run(self) -> None:
        """Train what is not trained yet."""
        with quiet(), writing(self.folder):
            if not self.tuned.done:
                self.warn_truncation()
                if any(self.config.trains):
                    Alternation(self).run()
            if self.accelerator.is_main_process:
                self.tuned.finish()
            self.accelerator.wait_for_everyone()

    def next_command(self) -> list[str]:
        """Return the command that uses the tuned profiler, without the data set."""
        if self.config.source == "profile":
            return ["reclm", "profile", "--profiler", str(self.folder)]
        encoder = ["--encoder", str(self.folder / ENCODER)] if self.config.trains[0] else []
        options = ["--backbone", "similarity", "--augment", "--profiler", "keywords", "--kind", "user"]
        return ["reclm", "bench", *options, *encoder]

    def results(self) -> list[Table | str]:
        """Evaluate on the test users, and write report and curves; return tables to be printed."""
        self.sessions  # noqa: B018 - all processes make or load them together
        if not self.accelerator.is_main_process:
            return []
        with quiet(), writing(self.folder):
            return report.results(self)

    def sample_texts(self, count: int) -> Iterator[str]:
        """Yield ``count`` prompts as a person reads them, each with the items that come next."""
        histories, sessions = self.histories, self.sessions
        yield f"{len(sessions):,} sessions: {len(sessions.rows('train')):,} to train on"
        for row in sessions.rows("train")[:count].tolist():
            chat = profile_chat(histories.parts(row)[0], self.config.prompts)
            wanted = "; ".join(histories.lines[item] for item in sessions.future[row].tolist())
            yield f"══ user {self.view.users.ids(sessions.users[row : row + 1])[0]}"
            yield f"{chat.messages[0].content}\n── begins: {chat.answer_start or '(nothing)'}\n── next: {wanted}"

    def estimate(self) -> Table:
        """Return a table of profiles, tokens and time of every part, from the time of one batch here."""
        with quiet():
            return report.estimate(self)

    @cached_property
    def dataset(self) -> Dataset:
        """The ``next-item`` data set of the view's training part, made once in ``folder/data``."""
        folder = self.folder / "data"
        with self.accelerator.main_process_first():
            if is_dataset(folder):
                return load_folder(folder)
            counts = {"encoder_tokens": self.encoder.tokens, "model_tokens": self._model_tokens}
            dataset = next_item(self.view, self.config.sessions, **counts, progress=self.progress)
            dataset.save(folder)
            return dataset

    @property
    def sessions(self) -> Sessions:
        """The sessions that are learned from: the view's own or, where it has none, those made of it."""
        return self.view.sessions or self.dataset.sessions  # pyright: ignore[reportReturnType]

    @cached_property
    def histories(self) -> SessionHistories:
        """The histories of the sessions, as prompts show them."""
        return SessionHistories(self.view, self.sessions, self.config.prompts)

    @cached_property
    def train_rows(self) -> np.ndarray:
        """``(n,)`` sessions that are learned from, ascending."""
        rows = self.sessions.rows("train")
        drawn = np.random.default_rng([self.config.seed, 1]).permutation(rows)
        return np.sort(drawn[: max(2, round(self.config.train_ratio * len(rows)))])

    @property
    def prompt_key(self) -> list[str]:
        """All that the untuned model's profiles of these sessions depend on, sampling options aside."""
        items = self.histories.parts(0)[0]
        return [
            version("reclm-toolkit"),
            self.model.name,
            self.view.fingerprint,
            self.sessions.options.model_dump_json(),
            self.config.prompts.model_dump_json(),
            # the words of the prompts, which are no option
            *(repr(profile_chat(items, self.config.prompts, known)) for known in ("", "so far")),
            # items are left out by its count of tokens: another encoder leaves other sessions
            self.encoder.name if self.sessions.options.max_item_tokens is not None else "",
        ]

    def cut_texts(self) -> list[str]:
        """Return lines that say how many texts of items, and reviews, are cut."""
        return self.histories.cut_texts()

    def warn_truncation(self) -> None:
        """Say what prompts will not show, and what the encoder will not read, profiles as far as is known."""
        self.say_cut_texts()
        texts = {"item texts": [self.histories.lines[item] for item in self.sessions.items.tolist()]}
        if self.config.source == "history":
            texts["histories"] = self.histories.texts(self.train_rows.tolist())
        window, longest = self.encoder.window, self.config.rlso.max_new_tokens
        for name, lines in texts.items():
            if share := self.encoder.truncated(lines):
                self.say(
                    f"warning: the encoder reads {window:g} tokens, which cuts {share:.1%} of the {name}"
                )
        if self.config.source == "profile" and longest >= window:
            message = f"profiles may have {longest} tokens, and the encoder reads {window:g}"
            self.say(f"warning: {message}; what share is cut is said at the end")

    def _model_tokens(self, texts: Iterable[str]) -> list[int]:
        encoded = self.prompts.tokenizer(list(texts), add_special_tokens=False)
        return [len(ids) for ids in encoded["input_ids"]]


class Alternation:
    """Algorithm 1: K times, J batches of contrastive learning, then T updates of the policy."""

    def __init__(self, tuning: LangPTunePipeline) -> None:
        self.tuning = tuning
        config, folder = tuning.config, tuning.folder
        recommends, writes = config.trains
        self.accelerator, encoder = tuning.accelerator, tuning.encoder
        if recommends:
            encoder = TextEncoder(encoder.source, encoder.device)
        self.item_texts = item_texts(tuning.view.item_text, tuning.view.text_template)
        self.ranker = CandidateRanker(encoder, self.item_texts, tuning.sessions.items)
        self.reward = SystemReward(
            self.ranker, tuning.histories, tuning.train_rows, config.reward, config.reward_at
        )
        self.cl = self.rlso = None
        if recommends:
            rate = config.cl.learning_rate if writes else config.cl.learning_rate_alone
            learned = tuning.sessions.future[tuning.train_rows].ravel()
            counts = np.bincount(learned, minlength=len(tuning.view.items))
            self.cl = Contrastive(encoder.model, config.cl, rate, self.accelerator, counts)
            check_room(folder / "cl" / CHECKPOINTS, self.cl.parameters, self.accelerator, 1)
            self.cl.resume(folder / "cl" / CHECKPOINTS)
        if config.source == "profile":
            network = load_network(tuning.model, full=config.lora.whole and writes)
            policy = None
            if writes:
                precision = config.rlso.precision
                policy = Policy.adapt(network, config.lora, seed=config.seed, precision=precision)
            sampler = PolicySampler(policy.decoder if policy else SplitDecoder(network), tuning.model)
            self.writer = SessionWriter(tuning.histories, tuning.prompts, sampler)
            if policy:
                parts = map(tuning.histories.parts, tuning.train_rows.tolist())
                prompts = [tuning.prompts.ids(profile_chat(first, config.prompts)) for first, *_ in parts]
                seeded = config.rlso.model_copy(update={"seed": config.seed + config.rlso.seed})
                self.rlso = RLSO(policy, sampler, prompts, self.reward, seeded, self.accelerator)
                self.rlso.watch = self.reward.watch
                check_room(folder / "rlso" / CHECKPOINTS, self.rlso.trained, self.accelerator, 1)
                self.rlso.resume(folder / "rlso" / CHECKPOINTS)

    def run(self) -> None:
        """Train all rounds, and write ``encoder`` and ``adapter`` to the folder."""
        config, folder = self.tuning.config, self.tuning.folder
        for number in range(1, config.rounds + 1):
            if self.cl:
                self._contrast(self.cl, number * config.cl.steps // config.rounds, number)
                self.ranker.changed()
            if self.rlso:
                self._reinforce(self.rlso, number * config.rlso.steps // config.rounds, number)
        first = self.accelerator.is_main_process
        if first and self.cl:
            with atomic_folder(folder / ENCODER) as draft:
                self.ranker.encoder.model.save(str(draft))
        if first and self.rlso:
            with atomic_folder(folder / ADAPTER) as draft:
                self.rlso.policy.network.save_pretrained(str(draft), save_embedding_layers=False)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _logged(
        self, part: str, title: str, step: int, begun: int, until: int
    ) -> Iterator[tuple[Callable[[int, Mapping[str, float]], None], Any]]:
        """Yield two functions, one that logs the metrics of a step and one that moves the progress bar."""
        log = MetricsLog(self.tuning.folder / part, step) if self.accelerator.is_main_process else None
        with progress_bar(title, until - begun, self.tuning.progress) as advance:
            advance(step - begun)
            yield (log.add if log else lambda step, metrics: None), advance
        if log:
            log.close()

    def _contrast(self, cl: Contrastive, until: int, number: int) -> None:
        """Train the recommender on profiles sampled from the present policy, each with an item that came next."""
        tuning, config = self.tuning, self.tuning.config
        if cl.step >= until:
            return
        begun, samples = until - config.cl.steps // config.rounds, None
        if config.source == "profile" and config.cl.reuse:
            # where the policy is not trained, its profiles of earlier rounds serve this one, too
            samples = self._samples(number)
            self._sample_round(samples, range(begun if self.rlso else 0, until), cl.step)
        title = f"contrastive learning, round {number} of {config.rounds}"
        with self._logged("cl", title, cl.step, begun, until) as (log, advance):
            while cl.step < until:
                rows, seeds = self._drawn(cl.step)
                texts, metrics = self._user_texts(rows, seeds, samples)
                future = tuning.sessions.future[rows]
                # one of several next items, drawn anew each time
                items = future[np.arange(len(rows)), np.array(seeds) % future.shape[1]]
                next_texts = [self.item_texts[item] for item in items.tolist()]
                metrics = cl.train_step(texts, next_texts, items, future) | metrics
                log(cl.step, metrics)
                cl.save(tuning.folder / "cl" / CHECKPOINTS, last=cl.step == until)
                advance(1, f"{title}: loss {metrics['loss']:.2f}")

    def _drawn(self, step: int) -> tuple[list[int], list[int]]:
        """Return the sessions of a batch, and a seed for each."""
        config, rows = self.tuning.config, self.tuning.train_rows
        process = self.accelerator.process_index, self.accelerator.num_processes
        at, seeds = batch_rows(step, config.cl.batch_size, len(rows), config.seed + _CL_SEED, *process)
        return rows[at].tolist(), seeds

    def _user_texts(
        self, rows: list[int], seeds: list[int], samples: Samples | None
    ) -> tuple[list[str], dict[str, float]]:
        """Return the users' texts of a batch, and their measures: sampled profiles, or the histories."""
        if self.tuning.config.source == "history":
            return self.tuning.histories.texts(rows), {}
        written = self._sampled(rows, seeds) if samples is None else samples.read(rows)
        measures = interpretability(written.texts, self.tuning.histories.sources(rows), written.ended)
        means: Any = torch.tensor(list(measures.values()), device=self.accelerator.device)
        means = self.accelerator.reduce(means, "mean")
        speed = written.tokens / written.seconds if written.seconds else 0.0
        of_all = dict(zip(measures, means.tolist(), strict=True))
        return written.texts, of_all | {"rollout_seconds": written.seconds, "rollout_tokens": speed}

    def _sampled(self, rows: list[int], seeds: list[int]) -> Written:
        config = self.tuning.config
        return self.writer.profiles(rows, config.rlso.sampling, config.writing, seeds)

    def _sample_round(self, samples: Samples, steps: range, at: int) -> None:
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

    def _samples(self, number: int) -> Samples:
        """Return the samples of the policy of round ``number``: those of the untrained one serve other tunings, too."""
        tuning, config = self.tuning, self.tuning.config
        if number > 1 and config.trains[1]:
            return Samples(tuning.folder / "cl" / "samples", [number, config.writing.model_dump_json()])
        kind = [config.lora.train, config.rlso.precision] if config.trains[1] else ["adapter", "auto"]
        key = [tuning.prompt_key, config.rlso.sampling.model_dump_json(), config.writing.model_dump_json()]
        return Samples(current().trials() / "samples", [*key, config.seed, *kind])

    def _reinforce(self, rlso: RLSO, until: int, number: int) -> None:
        """Update the policy, with the recommender as contrastive learning left it."""
        config = self.tuning.config
        if rlso.step >= until:
            return
        begun = until - config.rlso.steps // config.rounds
        if config.prompts.fold is not None:
            rlso.prompts = self._round_prompts(number)
        title = f"RLSO, round {number} of {config.rounds}"
        with self._logged("rlso", title, rlso.step, begun, until) as (log, advance):
            for metrics in islice(rlso.run(), until - rlso.step):
                log(rlso.step, metrics)
                place = self.tuning.folder / "rlso" / CHECKPOINTS
                rlso.save(place, newest=1, last=rlso.step >= until)
                advance(1, f"{title}: reward {metrics['reward']:.3f}, KL {metrics['kl']:.1f}")

    def _round_prompts(self, number: int) -> list[list[int]]:
        """Return a round's prompts, the last ones of folded histories, saved for a run that goes on.

        The profiles before them are written by the policy that begins the round, once: damaged ones are written again
        as long as it has not learned, and refused later.
        """
        path, rlso = self.tuning.folder / "rlso" / f"round-{number}.json", self.tuning.config.rlso
        if path.is_file():
            try:
                return self._read_prompts(path)
            except (OSError, ValueError, RecursionError) as error:
                if self.rlso and self.rlso.step > (number - 1) * rlso.steps // self.tuning.config.rounds:
                    message = f"{path} is damaged, and the policy that wrote it has learned since"
                    remedy = f"delete {path.name} to go on with profiles of the policy as it is"
                    raise Damaged(f"{message}; {remedy}", where=path, remedy=remedy) from error
        chats = self.writer.chats(self.tuning.train_rows.tolist(), self.tuning.config.writing)
        ids = [self.tuning.prompts.ids(chat) for chat in chats.values()]
        with atomic_file(path) as draft:
            draft.write_text(json.dumps(ids), encoding="utf-8")
        return ids

    def _read_prompts(self, path: Path) -> list[list[int]]:
        """Return the prompts in a file; ValueError where they are not one of known tokens for each session."""
        prompts, size = (
            _PROMPTS.validate_json(path.read_bytes(), strict=True),
            len(self.tuning.prompts.tokenizer),
        )
        if len(prompts) != len(self.tuning.train_rows) or max(map(max, prompts)) >= size:
            raise ValueError(f"{path} is that of other sessions, or of another model")
        return prompts
