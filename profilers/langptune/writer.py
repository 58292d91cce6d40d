"""Profiles of sessions, written by a language model that is at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from reclm.llm.chat import Chat, SamplingParams
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.langptune.histories import Histories
from reclm.profilers.langptune.prompts import finished, profile_chat
from reclm.profilers.rl.rollout import Sampler


@dataclass(frozen=True)
class Written:
    """``n`` profiles.

    Attributes:
        texts: one line each.
        ended: whether the model ended each by itself.
        tokens: written, all together.
        seconds: that it took.
    """

    texts: list[str]
    ended: list[bool]
    tokens: int
    seconds: float


class SessionWriter:
    """Writes profiles.

    Args:
        histories: of the sessions.
        prompts: the model's tokenizer.
        sampler: samples from the model as it is at the moment.
    """

    def __init__(self, histories: Histories, prompts: PromptTokenizer, sampler: Sampler) -> None:
        self.histories, self.prompts, self.sampler = histories, prompts, sampler

    def ids(self, chat: Chat) -> list[int]:
        """The prompt as token ids."""
        return self.prompts.ids(chat)

    def write(
        self,
        chats: Sequence[Chat],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Written:
        """Answer each chat.

        Args:
            seeds: one each, in place of ``params.seed``.
            advance: told of every answer.

        Raises:
            ReclmError: if a prompt does not fit the model's context window.
        """
        begun = perf_counter()
        asked = [self.ids(chat) for chat in chats]
        order = sorted(range(len(asked)), key=lambda row: len(asked[row]))
        texts, ended, tokens = [""] * len(asked), [False] * len(asked), 0
        own = None if seeds is None else [seeds[row] for row in order]
        for place, new, done in self.sampler.sample([asked[row] for row in order], params, own):
            row = order[place]
            texts[row], ended[row] = finished(self.histories.config, self.sampler.decode(new)), done
            tokens += len(new)
            if advance:
                advance(1)
        return Written(texts, ended, tokens, perf_counter() - begun)

    def chats(self, rows: Sequence[int], params: SamplingParams) -> dict[int, Chat]:
        """The last question of each session.

        Where histories are folded (:attr:`PromptConfig.fold`), the profiles of the parts before it are written first.
        """
        config = self.histories.config
        parts = {row: self.histories.parts(row) for row in rows}
        asked = {row: profile_chat(some[0], config) for row, some in parts.items()}
        for number in range(1, max(map(len, parts.values()), default=0)):
            longer = [row for row, some in parts.items() if len(some) > number]
            known = self.write([asked[row] for row in longer], params).texts
            for row, profile in zip(longer, known, strict=True):
                asked[row] = profile_chat(parts[row][number], config, profile)
        return asked

    def profiles(
        self, rows: Sequence[int], params: SamplingParams, advance: Callable[[int], None] | None = None
    ) -> Written:
        """The profiles of sessions, in their order."""
        return self.sampled(rows, params, params, None, advance)

    def sampled(
        self,
        rows: Sequence[int],
        params: SamplingParams,
        before: SamplingParams,
        seeds: Sequence[int] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Written:
        """The same, the parts of folded histories by ``before`` and the last one by ``params``."""
        begun = perf_counter()
        asked = self.chats(rows, before)
        written = self.write([asked[row] for row in rows], params, seeds, advance)
        return replace(written, seconds=perf_counter() - begun)
