"""A language model that is loaded only if there is something to ask it."""

from collections.abc import Callable, Iterator, Mapping

from reclm.text.chat import Chat, Generation, SamplingParams, TextGenerator


class LazyGenerator(TextGenerator):
    """A generator that knows its model's name, and loads it when it is first needed.

    Where every profile is stored already, it never is.
    """

    def __init__(self, model: str, load: Callable[[], TextGenerator]) -> None:
        self.model, self._load = model, load
        self._generator: TextGenerator | None = None

    def load(self) -> TextGenerator:
        """The generator itself, loaded by the first call."""
        if self._generator is None:
            self._generator = self._load()
        return self._generator

    def generate(self, chats: Mapping[str, Chat], params: SamplingParams) -> Iterator[Generation]:
        """Answer every chat (see :class:`~reclm.text.chat.TextGenerator`)."""
        yield from self.load().generate(chats, params)

    def count_tokens(self, chats: Mapping[str, Chat]) -> dict[str, int]:
        """Prompt tokens of each chat."""
        return self.load().count_tokens(chats)
