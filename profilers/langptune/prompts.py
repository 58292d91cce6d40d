"""Prompts of LangPTune (arXiv 2410.18870, section 5) and the histories that they show, for any data set.

Items and reviews are one line each and went through :func:`~reclm.llm.chat.plain`: they can pose neither as a turn of
the chat nor as another line of the prompt.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from filelock import FileLock

from reclm.data.dataset import TrainingView
from reclm.data.sessions import NONE, Sessions
from reclm.files import Journal
from reclm.llm.chat import Chat, Message, SamplingParams, plain
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.langptune.config import PromptConfig
from reclm.profilers.rl.rollout import sample_all
from reclm.text.item_text import cut_items, cut_note, item_lines

_ASK = (
    "Above are items that a user {chose}, the oldest first. Describe in a few sentences what this user likes and "
    "dislikes, so that somebody can tell from it which items the user will choose next."
)
_FOLD = (
    "Above are a description of a user, and items that the user {chose} since, the oldest first. Write the description "
    "anew: keep what still holds, and add what the items tell about what this user likes and dislikes."
)


@dataclass(frozen=True)
class HistoryItem:
    """An item of a history, as a prompt shows it: its text and the user's review are one line each."""

    text: str
    rating: float = np.nan
    review: str = ""

    @property
    def lines(self) -> list[str]:
        """``- text``, and the user's rating and review below it."""
        opinion = [] if np.isnan(self.rating) else [f"rated {self.rating:g}"]
        opinion += [f"wrote: {self.review}"] if self.review else []
        return [f"- {self.text}", *([f"  The user {' and '.join(opinion)}"] if opinion else [])]


def profile_chat(items: Sequence[HistoryItem], config: PromptConfig, known: str = "") -> Chat:
    """Return the question for a user's profile; ``known`` is the profile so far, from the items before these."""
    actions = ["rated"] * any(not np.isnan(item.rating) for item in items)
    actions += ["reviewed"] * any(item.review for item in items)
    question = (_FOLD if known else _ASK).format(chose=" and ".join(actions) or "chose")
    lines = [line for item in items for line in item.lines]
    before = [f"The user so far: {plain(known)}"] if known else []
    return Chat((Message("user", "\n".join([*before, *lines, "", question])),), config.begin)


def finished(config: PromptConfig, text: str) -> str:
    """Return a profile as one line: ``text`` is the answer behind the begin."""
    return plain(f"{config.begin} {text}")


class SessionHistories:
    """The histories that profiles are written from: those of ``sessions`` go before those of the view.

    A history from the view is its newest ``length`` items with text; 0: all.
    """

    def __init__(
        self, view: TrainingView, sessions: Sessions | None, config: PromptConfig, length: int = 0
    ) -> None:
        self.view, self.config, self.length = view, config, length
        self.sessions: Any = sessions

    @cached_property
    def lines(self) -> list[str]:
        """The text of each item as one line, ``I`` of them."""
        return item_lines(self.view.item_text, self.view.text_template, self.config.item_chars)

    def cut_texts(self) -> list[str]:
        """Return lines that say how many texts of items, and reviews, are cut; none where none is."""
        limit, view = self.config.review_chars, self.view
        review = self.sessions.review if self.sessions else view.train.review
        reviews = review.to_pylist() if review is not None and limit else []
        items = cut_items(view.item_text, view.text_template, self.config.item_chars)
        return items + cut_note("reviews", reviews, limit)

    @cached_property
    def _session_of(self) -> dict[int, int]:
        return {user: row for row, user in enumerate(self.sessions.users.tolist())} if self.sessions else {}

    def items(self, row: int) -> list[HistoryItem]:
        """Return the history of session ``row``, oldest first."""
        sessions = self.sessions
        items = sessions.history[row]
        ratings = sessions.rating[row].tolist() if sessions.rating is not None else []
        return self._history(items[items != NONE].tolist(), ratings, sessions.reviews(row))

    def of_user(self, user: int) -> list[HistoryItem]:
        """Return the history of the user's session or, without one, the newest items in the view."""
        if user in self._session_of:
            return self.items(self._session_of[user])
        train = self.view.train
        rows = self.view.history("user", user)
        with_text = np.array([bool(self.lines[item]) for item in train.item_idx[rows].tolist()], bool)
        rows = rows[with_text][-self.length :] if self.length else rows[with_text]
        ratings = train.rating[rows].tolist() if train.rating is not None else []
        reviews = train.review.take(rows).to_pylist() if train.review is not None else []
        return self._history(train.item_idx[rows].tolist(), ratings, reviews)

    def folded(self, items: list[HistoryItem]) -> list[list[HistoryItem]]:
        """Return a history in parts of ``config.fold`` items, the oldest first; whole without."""
        fold = self.config.fold or len(items)
        return [items[start : start + fold] for start in range(0, len(items), fold)] if items else []

    def parts(self, row: int) -> list[list[HistoryItem]]:
        """Return the history of session ``row``, :meth:`folded`."""
        return self.folded(self.items(row))

    def texts(self, rows: Sequence[int]) -> list[str]:
        """Return the histories of sessions as bare texts (:func:`history_text`)."""
        return [history_text(self.items(row)) for row in rows]

    def sources(self, rows: Sequence[int]) -> list[str]:
        """Return the texts that profiles of sessions may copy from (:func:`source_text`)."""
        return [source_text(self.items(row)) for row in rows]

    def _history(
        self, items: Sequence[int], ratings: Sequence[float], reviews: Sequence[str | None]
    ) -> list[HistoryItem]:
        limit = self.config.review_chars
        rated, reviewed = ratings or [np.nan] * len(items), reviews or [None] * len(items)
        return [
            HistoryItem(self.lines[item], rating, plain(review or "", limit) if limit else "")
            for item, rating, review in zip(items, rated, reviewed, strict=False)
        ]


def history_text(items: Sequence[HistoryItem]) -> str:
    """Return a history as a bare text, without a language model (EMB-0 and EMB-CL): a line an item, oldest first."""
    return "\n".join(line for item in items for line in item.lines)


def source_text(items: Sequence[HistoryItem]) -> str:
    """Return the texts of a history that a profile may copy from: items and reviews."""
    return " ".join(f"{item.text} {item.review}" for item in items)


@dataclass(frozen=True)
class Written:
    """Profiles, one line each, whether the model ended each by itself, and tokens and seconds of all together."""

    texts: list[str]
    ended: list[bool]
    tokens: int
    seconds: float


class SessionWriter:
    """Writes profiles of sessions with a loaded model, whose weights may change between calls."""

    def __init__(
        self, histories: SessionHistories, prompts: PromptTokenizer, sampler: NetworkGenerator
    ) -> None:
        self.histories, self.prompts, self.sampler = histories, prompts, sampler

    def _write(
        self, chats: Sequence[Chat], params: SamplingParams, seeds: Sequence[int] | None = None
    ) -> list[tuple[str, bool, int]]:
        """Return text, whether it ended by itself and tokens of the answer to each chat."""
        answers = sample_all(self.sampler, [self.prompts.ids(chat) for chat in chats], params, seeds)
        config, decode = self.histories.config, self.sampler.decode
        return [(finished(config, decode(new)), ended, len(new)) for new, ended in answers]

    def chats(self, rows: Sequence[int], params: SamplingParams) -> dict[int, Chat]:
        """Return the last question of each session.

        Where histories are folded (:attr:`PromptConfig.fold`), the profiles of the parts before it are written first.
        """
        config = self.histories.config
        parts = {row: self.histories.parts(row) for row in rows}
        chats = {row: profile_chat(history[0], config) for row, history in parts.items()}
        for number in range(1, max(map(len, parts.values()), default=0)):
            longer = [row for row, history in parts.items() if len(history) > number]
            known = self._write([chats[row] for row in longer], params)
            for row, (profile, *_) in zip(longer, known, strict=True):
                chats[row] = profile_chat(parts[row][number], config, profile)
        return chats

    def profiles(
        self,
        rows: Sequence[int],
        params: SamplingParams,
        before: SamplingParams | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Written:
        """Write the profiles of sessions in order, each drawn by its own of ``seeds`` or by ``params.seed``.

        ``before`` is how the parts of folded histories but the last are sampled, by default as ``params``.
        """
        begun = perf_counter()
        chats = self.chats(rows, before or params)
        answers = self._write([chats[row] for row in rows], params, seeds)
        texts, ended = [text for text, _, _ in answers], [ended for _, ended, _ in answers]
        return Written(texts, ended, sum(count for *_, count in answers), perf_counter() - begun)


class Samples:
    """A file of profiles sampled in training, one a session. Several processes may add; the first profile counts.

    ``key`` is all that they depend on.
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
            for row in filter(None, self._file.rows()):
                kinds = {"session": int, "text": str, "ended": bool, "tokens": float, "seconds": float}
                if all(
                    isinstance(row.get(name), kind) for name, kind in kinds.items()
                ):  # else it is sampled again
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
