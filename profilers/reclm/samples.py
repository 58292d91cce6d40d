"""Instruction data of every stage, streamed sample by sample (RecLM, https://arxiv.org/abs/2412.19302, 2.2 to 2.4).

The lists of a prompt are chosen for thousands of subjects at once, in arrays; only the text is put together one by one.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from reclm.data.dataset import ProfileKind, ReadReport, TrainingView
from reclm.errors import BadInput
from reclm.files import atomic_folder
from reclm.llm.chat import Chat, Message
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.profile_format import PAPERS
from reclm.profilers.reclm import prompts
from reclm.profilers.reclm.config import InstructionConfig
from reclm.profilers.reclm.prompts import Budget, Histories, blocks, packed, trimmed
from reclm.profilers.tuning.training import evenly

Stage = Literal["kd", "collab", "inference", "warm-item", "cold-item"]
ABOUT = "about.yaml"
_TOO_LONG = "does not fit the token budget"
_NO_NEIGHBOURS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Sample:
    """A chat to learn from, or to be answered, about the user or item ``subject``.

    A sample that ends in a judgement has its ``label``, ``"Yes"`` or ``"No"``, and the id of the judged ``item``;
    ``neighbours`` are ids of the users (or items) that are shown beside the subject, nearest or newest first.
    """

    messages: tuple[Message, ...]
    kind: ProfileKind
    subject: str
    stage: Stage
    label: str = ""
    item: str = ""
    neighbours: tuple[str, ...] = ()

    @property
    def chat(self) -> Chat:
        """The question with the answer begun, as the answers of the stage begin in training."""
        return Chat(
            self.messages, prompts.numbered([PAPERS.start]) if self.stage == "inference" else PAPERS.start
        )


class Instructions:
    """Makes the samples of all stages from a view; ``tokenizer`` counts their tokens.

    Neighbours are arrays ``(U, N)`` of users, or ``(I, N)`` of items: nearest first, -1 where there are fewer.
    ``report`` counts the samples by stage, and the subjects that were left out, by reason.
    """

    def __init__(self, view: TrainingView, config: InstructionConfig, tokenizer: PromptTokenizer) -> None:
        self.view, self.config, self.budget = view, config, Budget(tokenizer, config.max_tokens)
        self.histories = Histories(view, config, self.budget)
        self.report = ReadReport()

    def kd(self, profiles: Mapping[str, str]) -> Iterator[Sample]:
        """Yield samples of knowledge distillation: the history of each user in ``profiles``, and the profile."""
        return self.alone(self.histories.known("user", profiles)[0], profiles)

    def alone(self, rows: np.ndarray, profiles: Mapping[str, str] | None = None) -> Iterator[Sample]:
        """Yield the question about the history of each user of ``rows`` who has one, answered by ``profiles``."""
        phrases = self.config.phrases
        frame = self._frame(prompts.distillation([], phrases))
        for block in blocks(self.histories.with_history(rows)):
            answers, room = self._answers("user", profiles, block)
            lists = self.histories.of_users[block, None, : self.config.history]
            chosen, fits = self._fitted("kd", lists, np.zeros((len(block), 1), np.int64), frame + room)
            for at in np.flatnonzero(fits).tolist():
                prompt = prompts.distillation(self.histories.named(chosen[at, 0]), phrases)
                yield self._sample("kd", "user", block[at], (*prompt, *answers[at]))

    def collaborative(
        self, neighbours: np.ndarray, profiles: Mapping[str, str], generator: np.random.Generator
    ) -> Iterator[Sample]:
        """Yield chats of two turns (equations 3 and 4), a positive and a negative one of each user that has both.

        Both have the same first turn, without the positive item (see :meth:`Histories.draw_questions`): labels are
        balanced, and nothing but the item asked tells them apart. Neighbours without a profile are passed over.
        """
        known, texts = self.histories.known("user", profiles)
        cost = np.zeros(len(self.view.users), np.int64)
        cost[known] = self.budget.lines(list(texts.values()), "User 10: ")
        first = prompts.collaborative([()], self.config.phrases)
        last = prompts.judgement("."), Message("assistant", prompts.YES)
        frame = self.budget.frame((*first, Message("assistant", "."), *last))
        for rows in blocks(known):
            near = packed(np.where(np.isin(neighbours[rows], known), neighbours[rows], -1))
            people = np.concatenate([rows[:, None], near], axis=1)
            lists = self.histories.lists(rows, near, self.config.history + 1)
            question = np.where(lists >= 0, self.histories.costs[lists], 0).max((1, 2))
            chosen, fits = self._fitted("collab", lists, cost[people] + self._heading(), frame + question)
            chosen[:, 0], positive, negative = self.histories.draw_questions(rows, chosen, generator)
            both = (positive >= 0) & (negative >= 0)
            self.report.drop("collab: no item to ask for", int((fits & ~both).sum()))
            for at in np.flatnonzero(fits & both):
                used = (chosen[at] >= 0).any(1)
                users = people[at, used]
                histories = list(map(self.histories.named, chosen[at, used]))
                answer = prompts.numbered([texts[user] for user in users.tolist()])
                turn = *prompts.collaborative(histories, self.config.phrases), Message("assistant", answer)
                for item, label in ((int(positive[at]), prompts.YES), (int(negative[at]), prompts.NO)):
                    ask = prompts.judgement(self.histories.lines[item]), Message("assistant", label)
                    yield self._sample("collab", "user", rows[at], (*turn, *ask), users[1:], label, item)

    def inference(self, rows: np.ndarray, neighbours: np.ndarray) -> Iterator[Sample]:
        """Yield the prompt (equation 5) about each user of ``rows``; users without a history are left out."""
        phrases = self.config.phrases
        frame = self._frame(prompts.inference([()], phrases)) + self.config.answer_tokens
        for block in blocks(self.histories.with_history(rows)):
            near = packed(neighbours[block])
            lists = self.histories.lists(block, near, self.config.history)
            heading = np.full(lists.shape[:2], self._heading())
            chosen, fits = self._fitted("inference", lists, heading, np.full(len(block), frame))
            for at in np.flatnonzero(fits):
                used = (chosen[at] >= 0).any(1)
                prompt = prompts.inference(list(map(self.histories.named, chosen[at, used])), phrases)
                yield self._sample("inference", "user", block[at], prompt, near[at, used[1:]])

    def warm_items(
        self, rows: np.ndarray, users: Mapping[str, str], profiles: Mapping[str, str] | None = None
    ) -> Iterator[Sample]:
        """Yield samples of the first phase of item profiles: the text of each of ``rows``, and profiles of its users.

        Users without a profile in ``users`` are passed over. Without ``profiles`` the samples end in the question.
        """
        known, quoted = self.histories.known("user", users)
        yield from self._items("warm-item", rows, self.histories.clickers(known), quoted, profiles)

    def cold_items(
        self,
        rows: np.ndarray,
        neighbours: np.ndarray,
        items: Mapping[str, str],
        profiles: Mapping[str, str] | None = None,
    ) -> Iterator[Sample]:
        """Yield samples of the second phase: the text of each of ``rows``, and similar items with their ``items``."""
        known, texts = self.histories.known("item", items)
        quoted = {row: f"{self.histories.lines[row]} For: {text}" for row, text in texts.items()}
        lists = packed(np.where(np.isin(neighbours, known), neighbours, -1))
        yield from self._items("cold-item", rows, lists, quoted, profiles)

    def _items(
        self,
        stage: Literal["warm-item", "cold-item"],
        rows: np.ndarray,
        lists: np.ndarray,
        quoted: Mapping[int, str],
        profiles: Mapping[str, str] | None,
    ) -> Iterator[Sample]:
        """Yield items with the lines ``quoted`` of the users or other items in ``lists`` ``(I, N)``."""
        phrases = self.config.item_phrases
        frame = self._frame(prompts.item_question(stage, ".", ["."], phrases))
        cost = np.zeros(1 + max(quoted, default=0), np.int64)
        cost[list(quoted)] = self.budget.lines(list(quoted.values()))
        if profiles is not None:
            rows = rows[np.isin(rows, self.view.items.find(profiles))]
        bare = np.fromiter((not self.histories.lines[row] for row in rows), bool, len(rows))
        self.report.drop(f"{stage}: no text", int(bare.sum()))
        for block in blocks(rows[~bare]):
            answers, room = self._answers("item", profiles, block)
            fixed = frame + room + self.histories.costs[block]
            heading = np.zeros((len(block), 1), np.int64)
            chosen, _ = trimmed(lists[block, None], cost, heading, fixed, self.budget.limit)
            # an item for which not one line has room is described by its own text
            fits = fixed <= self.budget.limit
            self.report.drop(f"{stage}: {_TOO_LONG}", int((~fits).sum()))
            for at in np.flatnonzero(fits).tolist():
                beside = chosen[at, 0][chosen[at, 0] >= 0]
                lines = [quoted[row] for row in beside.tolist()]
                prompt = prompts.item_question(stage, self.histories.lines[block[at]], lines, phrases)
                yield self._sample(stage, "item", block[at], (*prompt, *answers[at]), beside)

    def _answers(
        self, kind: ProfileKind, profiles: Mapping[str, str] | None, rows: np.ndarray
    ) -> tuple[Sequence[tuple[Message, ...]], np.ndarray]:
        """Return the answer about each of ``rows``, none without ``profiles``, and the tokens to leave for it."""
        if profiles is None:
            return [()] * len(rows), np.full(len(rows), self.config.answer_tokens)
        texts = self.histories.texts(kind, profiles, rows)
        return [(Message("assistant", text),) for text in texts], self.budget.lines(texts, "")

    def _frame(self, prompt: tuple[Message, ...]) -> int:
        """Return the tokens of a sample whose lists and answer are empty: of template and fixed words."""
        return self.budget.frame((*prompt, Message("assistant", ".")))

    def _heading(self) -> int:
        return int(self.budget.lines(["User 10 chose:"], "")[0])

    def _fitted(
        self, stage: Stage, lists: np.ndarray, heading: np.ndarray, fixed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen, fits = trimmed(lists, self.histories.costs, heading, fixed, self.budget.limit)
        self.report.drop(f"{stage}: {_TOO_LONG}", int((~fits).sum()))
        return chosen, fits

    def _sample(
        self,
        stage: Stage,
        kind: ProfileKind,
        row: int,
        messages: tuple[Message, ...],
        beside: np.ndarray = _NO_NEIGHBOURS,
        label: str = "",
        item: int = -1,
    ) -> Sample:
        self.report.count(stage)
        (subject,) = self.view.idmap(kind).ids(np.array([row]))
        others = self.view.items if stage == "cold-item" else self.view.users
        judged = self.view.items.ids(np.array([item]))[0] if item >= 0 else ""
        return Sample(messages, kind, subject, stage, label, judged, tuple(others.ids(beside)))

    def save(self, folder: Path, samples: Iterable[Sample]) -> None:
        """Write samples to a folder of Hugging Face ``datasets`` as they come, whole or not at all.

        Columns are the fields of :class:`Sample`. ``about.yaml`` has the data set, and what was left out and why.
        """
        import datasets
        from datasets.arrow_writer import ArrowWriter

        if folder.exists() and not (folder / ABOUT).is_file():
            raise BadInput(
                f"{folder} holds something else than instruction data; give another folder", value=folder
            )
        string = datasets.Value("string")
        columns = {
            "messages": datasets.List({"role": string, "content": string}),
            **dict.fromkeys(("kind", "subject", "stage", "label", "item"), string),
            "neighbours": datasets.List(string),
        }
        with atomic_folder(folder) as draft:
            # the data set cannot be saved to the folder that it is read from
            (draft / "rows").mkdir()
            path = str(draft / "rows" / "rows.arrow")
            with ArrowWriter(features=datasets.Features(columns), path=path) as writer:
                for sample in samples:
                    writer.write({**vars(sample), "messages": [vars(turn) for turn in sample.messages]})
                count, _ = writer.finalize()
            if not count:
                reasons = ", ".join(f"{count} {reason}" for reason, count in self.report.dropped.items())
                raise BadInput(
                    f"no instruction data from {self.view.name!r}: {reasons or 'nobody has a profile'}; give profiles "
                    "of more subjects, raise instructions.max_tokens, or leave the stage out (--stages)",
                    value=self.report.dropped,
                    where=self.view.name,
                    remedy="instructions.max_tokens",
                )
            datasets.Dataset.from_file(path).save_to_disk(str(draft))
            shutil.rmtree(draft / "rows")
            about = {
                "dataset": self.view.name,
                "fingerprint": self.view.fingerprint,
                "samples": count,
                "kept": self.report.counts,
                "dropped": self.report.dropped,
                "config": self.config.model_dump(mode="json"),
            }
            text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
            (draft / ABOUT).write_text(text, encoding="utf-8")


def subset(samples: Any, subjects: Sequence[str]) -> Any:
    """Return the samples of a ``datasets.Dataset`` that are of ``subjects``."""
    wanted = set(subjects)
    return samples.select([at for at, subject in enumerate(samples["subject"]) if subject in wanted])


def messages_of(turns: Iterable[Mapping[str, str]]) -> list[Message]:
    """Return the messages of a saved sample."""
    return [Message(turn["role"], turn["content"]) for turn in turns]  # pyright: ignore[reportArgumentType]


def formatted(samples: Any, count: int) -> str:
    """Return ``count`` samples, evenly spread over a ``datasets.Dataset`` of messages, in readable form."""
    parts = []
    for at in evenly(len(samples), count).tolist():
        row = samples[at]
        notes = [f"{row['stage']}, {row['kind']} {row['subject']}"]
        notes += [f"asked: item {row['item']}, answer {row['label']}"] if row["label"] else []
        notes += [f"similar: {', '.join(row['neighbours'])}"] if row["neighbours"] else []
        turns = [f"[{turn['role']}]\n{turn['content']}" for turn in row["messages"]]
        parts.append("\n".join([f"── sample {at}: {'; '.join(notes)}", *turns]))
    return "\n\n".join(parts)
