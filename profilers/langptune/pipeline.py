"""LangPTune's training: contrastive learning and RLSO in turns (arXiv 2410.18870, Algorithm 1).

What is done stays done: sessions, checkpoints and weights lie in the folder; a run that was interrupted goes on there.
"""

import shutil
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from reclm.data.dataset import Dataset
from reclm.data.sessions import Sessions, next_item
from reclm.data.storage import is_dataset, load_folder
from reclm.profilers.langptune.alternation import ENCODER, Alternation
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.prompts import Histories, profile_chat
from reclm.profilers.tuning.metrics_log import read_metrics, writing
from reclm.profilers.tuning.run_folder import About, RunFolder, Tuning
from reclm.profilers.tuning.training import ADAPTER, quiet

if TYPE_CHECKING:
    from rich.table import Table

_DONE = "done.yaml"
_WRITES = ("max_new_tokens", "temperature")
"""Options that a tuned profiler may be given anew."""


class LangPTuneAbout(About):
    """``about.yaml``: what a profiler was tuned from."""

    encoder: str
    """The text encoder that the recommender began as, with a hash of its weights."""


class Tuned(RunFolder):
    """A run folder with ``adapter`` (PEFT) and ``encoder`` (sentence-transformers), where they are trained."""

    profiler = "langptune"
    Config = LangPTuneConfig
    About = LangPTuneAbout
    free = frozenset({*_WRITES, "measured"})
    writes = _WRITES
    prepared = ("data", "sessions")
    config: LangPTuneConfig
    about: LangPTuneAbout

    @property
    def learned(self) -> bool:
        """Whether training was begun."""
        return any((self.folder / name).exists() for name in ("cl", "rlso", ENCODER, ADAPTER, _DONE))

    @property
    def done(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / _DONE).is_file()

    def finish(self) -> None:
        """Mark the training as done, and delete what it would have gone on with."""
        (self.folder / _DONE).write_text(f"variant: {self.config.variant}\n", encoding="utf-8")
        for part in ("cl/checkpoints", "cl/samples", "rlso/checkpoints"):
            shutil.rmtree(self.folder / part, ignore_errors=True)

    def adapter(self, stage: str = "rlso") -> Path | None:
        """Return the folder of the language model's adapter; None where it is not trained."""
        return self._there(ADAPTER)

    @property
    def encoder(self) -> Path | None:
        """The folder of the trained encoder; None where it is not trained."""
        return self._there(ENCODER)

    def _there(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_dir() else None

    def log(self) -> Iterator[dict[str, float]]:
        """Yield what was logged, a row a step: ``epoch`` (the step), ``seconds``, and loss or reward."""
        for part, names in (
            ("cl", ("loss",)),
            ("rlso", ("reward", "kl", "copying", "readability", "compliance")),
        ):
            curves = read_metrics(self.folder / part)
            rows: dict[int, dict[str, float]] = {}
            for name in (*names, "rollout_seconds", "reward_seconds", "update_seconds"):
                if name in curves:
                    for step, value in zip(
                        curves[name].steps.tolist(), curves[name].values.tolist(), strict=True
                    ):
                        row = rows.setdefault(step, {"epoch": step, "seconds": 0.0})
                        key = "seconds" if name.endswith("_seconds") else name
                        row[key] = row.get(key, 0.0) + value
            yield from (rows[step] for step in sorted(rows))


class LangPTunePipeline(Tuning):
    """A run of the variant that ``config`` names, on one process or many (``accelerate launch``).

    Of many, the first writes what they share, and alone measures. The sessions of ``view`` are learned from; where it
    has none they are made of it. See :class:`~reclm.profilers.tuning.run_folder.Tuning`.
    """

    Folder = Tuned
    config: LangPTuneConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # told that there is no GPU, accelerate makes a group of processes on CPUs
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.progress = self.progress and self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            self.tuned: Tuned = self.begin(encoder=self.encoder.name)
            self.tuned.write()

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
            if self.accelerator.is_main_process:
                self.tuned.finish()
            self.accelerator.wait_for_everyone()

    def next_command(self) -> list[str]:
        """Return a command that uses what was tuned, without the data set."""
        if self.config.source == "profile":
            return ["reclm", "profile", "--profiler", "langptune", "--adapter", str(self.folder)]
        encoder = ["--encoder", str(self.folder / ENCODER)] if self.config.trains[0] else []
        options = ["--backbone", "similarity", "--augment", "--profiler", "keywords", "--kind", "user"]
        return ["reclm", "bench", *options, *encoder]

    def results(self) -> "list[Table | str]":
        """Evaluate on the test users, and write report and curves; return tables to be printed."""
        from reclm.profilers.langptune.report import results

        self.sessions  # noqa: B018 - all processes make or load them together
        if not self.accelerator.is_main_process:
            return []
        with quiet(), writing(self.folder):
            return results(self)

    def shown(self, count: int) -> Iterator[str]:
        """Yield ``count`` prompts as a person reads them, each with the items that come next."""
        histories, sessions = self.histories, self.sessions
        yield f"{len(sessions):,} sessions: {len(sessions.rows('train')):,} to train on"
        for row in sessions.rows("train")[:count].tolist():
            chat = profile_chat(histories.parts(row)[0], self.config.prompts)
            wanted = "; ".join(histories.lines[item] for item in sessions.future[row].tolist())
            yield f"══ user {self.view.users.ids(sessions.users[row : row + 1])[0]}"
            yield f"{chat.messages[0].content}\n── begins: {chat.answer_start or '(nothing)'}\n── next: {wanted}"

    def estimate(self) -> "Table":
        """Return a table of profiles, tokens and time of every part, from the time of one batch here."""
        from reclm.profilers.langptune.report import estimate

        with quiet():
            return estimate(self)

    @cached_property
    def dataset(self) -> Dataset:
        """The ``next-item`` data set of the view's training part, made once in ``folder/data``."""
        folder = self.folder / "data"
        with self.accelerator.main_process_first():
            if is_dataset(folder):
                return load_folder(folder)
            made = next_item(
                self.view,
                self.config.sessions,
                encoder_tokens=self.encoder.tokens,
                model_tokens=self._model_tokens,
                progress=self.progress,
            )
            made.save(folder)
            return made

    @property
    def sessions(self) -> Sessions:
        """The sessions that are learned from: the view's own or, where it has none, those made of it."""
        sessions = self.view.sessions or self.dataset.sessions
        assert sessions is not None
        return sessions

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

    @property
    def prompt_key(self) -> list[str]:
        """All that the untuned model's profiles of these sessions depend on, but for how it samples."""
        items = self.histories.parts(0)[0]
        return [
            version("reclm-toolkit"),
            self.model.name,
            self.view.fingerprint,
            self.sessions.options.model_dump_json(),
            self.config.prompts.model_dump_json(),
            # the words of the prompts, which are no option
            *(repr(profile_chat(items, self.config.prompts, known)) for known in ("", "so far")),
            # by its tokens items are left out: another one leaves other sessions
            self.encoder.name if self.sessions.options.max_item_tokens is not None else "",
        ]

    def warn_truncation(self) -> None:
        """Say what the encoder will not read of items and histories, and of profiles as far as is known."""
        encoder, config = self.encoder, self.config
        texts = {"item texts": [self.histories.lines[item] for item in self.sessions.items.tolist()]}
        if config.source == "history":
            texts["histories"] = self.histories.texts(self.train_rows.tolist())
        for name, some in texts.items():
            if share := encoder.truncated(some):
                self.say(
                    f"warning: the encoder reads {encoder.window:g} tokens, which cuts {share:.1%} of the {name}"
                )
        if config.source == "profile" and config.rlso.max_new_tokens >= encoder.window:
            self.say(
                f"warning: profiles may have {config.rlso.max_new_tokens} tokens, and the encoder reads "
                f"{encoder.window:g}; what share is cut is said at the end"
            )

    def _model_tokens(self, texts: Any) -> list[int]:
        return [
            len(ids) for ids in self.prompts.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        ]
