"""LangPTune's training: contrastive learning and RLSO in turns (arXiv 2410.18870, Algorithm 1).

What is done stays done: sessions, checkpoints and measurements lie in the folder; a run that was broken goes on there.
"""

import sys
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator

from reclm.data.dataset import TrainingView
from reclm.data.sessions import HEAD, Sessions, make_sessions
from reclm.llm.chat import SamplingParams
from reclm.llm.models import LanguageModel, context_length, load_tokenizer
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.langptune.alternation import Alternation
from reclm.profilers.langptune.config import LangPTuneConfig
from reclm.profilers.langptune.histories import Histories
from reclm.profilers.langptune.profile_cache import KeptProfiles
from reclm.profilers.langptune.prompts import profile_chat
from reclm.profilers.langptune.recommender import TextRecommender
from reclm.profilers.langptune.run_folder import ENCODER, Tuned
from reclm.profilers.tuning.load_model import quiet
from reclm.profilers.tuning.metrics_log import writing
from reclm.text.encoder import TextEncoder

if TYPE_CHECKING:
    from rich.table import Table


class Tuning:
    """A run of the variant that ``config`` names, on one process or many (``accelerate launch``).

    Of many, the first writes what they share, and alone measures.

    Args:
        view: the training part.
        config: see :class:`LangPTuneConfig`.
        model: writes the profiles.
        folder: where; what was done there with the same options is not done again.
        asked_model: the name that ``model`` was found by.
        encoder: what σ begins as; it is not changed itself.
        kept: where profiles of models that other tunings have, too, are kept for all of them; None: none are shared.
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
        kept: Path | None = None,
        progress: bool = True,
    ) -> None:
        self.view, self.config, self.model, self.folder = view, config, model, folder
        self._shared = kept
        # told that there is no GPU, accelerate makes a group of processes on CPUs
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.progress = progress and self.accelerator.is_main_process
        self.prompts = PromptTokenizer(load_tokenizer(model), context_length(model), model.name)
        self.first_encoder = encoder or TextEncoder()
        with self.accelerator.main_process_first():
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
            if self.accelerator.is_main_process:
                self.tuned.finish()
            self.accelerator.wait_for_everyone()

    def next_command(self) -> list[str]:
        """What uses what was tuned, without the data set."""
        if self.config.source == "profile":
            return ["reclm", "profile", "--profiler", "langptune", "--adapter", str(self.folder)]
        encoder = ["--encoder", str(self.folder / ENCODER)] if self.config.trains[0] else []
        given = ["--backbone", "similarity", "--augment", "--profiler", "keywords", "--kind", "user"]
        return ["reclm", "bench", *given, *encoder]

    def results(self) -> "list[Table | str]":
        """Measure on the test sessions what is not measured yet, and write report and curves; tables to be printed."""
        from reclm.profilers.langptune.report import results

        self.sessions  # noqa: B018 - all processes make or load them together
        if not self.accelerator.is_main_process:
            return []
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
        with self.accelerator.main_process_first():
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

    def kept(self, folder: Path, model: str, *params: SamplingParams, more: str = "") -> KeptProfiles:
        """Profiles of these sessions: in the folder that tunings share or, without one, in ``folder``.

        Args:
            model: that writes them.
            params: all that it samples by.
            more: what else they depend on.
        """
        options, prompts = self.sessions.options, self.config.prompts
        key = [version("reclm-toolkit"), model, *(one.model_dump_json() for one in params)]
        key += [prompts.model_dump_json(), options.model_dump_json(), self.sessions.fingerprint]
        items = self.histories.parts(0)[0]
        # the words of the prompts, which are no option
        key += [repr(profile_chat(items, prompts, known)) for known in ("", "so far")]
        if options.max_item_tokens is not None:
            key.append(self.first_encoder.name)  # by its tokens: another one leaves other sessions
        return KeptProfiles(self._shared or folder, [*key, more] if more else key)

    def recommender(self, encoder: TextEncoder | None = None) -> TextRecommender:
        """σ: as it was tuned; as it came where it was not, or with ``encoder``."""
        if encoder is None:
            tuned = self.tuned.encoder
            encoder = TextEncoder(str(tuned), self.first_encoder.device) if tuned else self.first_encoder
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
        if config.source == "profile" and config.rlso.max_new_tokens >= encoder.window:
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
