"""A language model that is loaded only if there is something to ask it."""

from collections.abc import Callable, Iterator, Mapping

from reclm.text.chat import Chat, Generation, SamplingParams, TextGenerator
from reclm.text.models import find_model, is_local, load_generator


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


def open_generator(model: str | None = None, engine: str | None = None) -> TextGenerator:
    """A generator that can say its model's name at once, and loads it, or asks its server, when it is first needed.

    Args:
        model, engine: as in :func:`~reclm.text.models.load_generator`.

    Raises:
        ReclmError: for an unknown engine or model.
    """
    if not is_local(engine):
        return load_generator(model, engine)
    found = find_model(model)
    return LazyGenerator(found.name, lambda: load_generator(found, engine))
