"""A language model whose answers a test writes."""

from reclm.llm.chat import Generation, TextGenerator


class Scripted(TextGenerator):
    """Answers with ``answer(question, params)`` and keeps what it was asked."""

    model = "scripted"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, chats, params):
        for key, chat in chats.items():
            self.asked.append((chat, params))
            yield Generation(key, self.answer(chat.messages[-1].content, params), 100, 20, "stop")

    def count_tokens(self, chats):
        return dict.fromkeys(chats, 100)
