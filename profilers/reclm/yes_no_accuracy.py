"""Whether the model says Yes and No rightly (RecLM, arXiv 2412.19302, equation 4), by the likelier of the two."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from reclm.llm.chat import Chat
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.masking import messages_of
from reclm.profilers.reclm.prompts import NO, YES
from reclm.profilers.rl.logprobs import LogitHead

_TOGETHER = 8


@torch.inference_mode()
def judged(network: Any, prompts: PromptTokenizer, samples: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """``(n,)`` bool: which two-turn samples are answered rightly, the first turn's answer given.

    Args:
        network: a transformers causal language model.
        samples: rows of ``messages`` that end in the answer, and ``label``.
    """
    samples = list(samples)
    if not samples:
        return np.zeros(0, bool)
    chats = [Chat(tuple(messages_of(one["messages"])[:-1])) for one in samples]
    asked = [torch.tensor(prompts.ids(chat)) for chat in chats]
    # the first token in which the two answers differ, as they stand behind a question
    yes, no = (prompts.ids(Chat(chats[0].messages, word))[len(asked[0])] for word in (YES, NO))
    wanted = np.array([one["label"] == YES for one in samples], bool)
    said = np.zeros(len(samples), bool)
    head = LogitHead(network)
    order = np.argsort([len(one) for one in asked], kind="stable")
    for rows in np.split(order, range(_TOGETHER, len(order), _TOGETHER)):
        some = [asked[row] for row in rows]
        ids = pad_sequence(some, batch_first=True).to(network.device)
        there = pad_sequence([torch.ones_like(one) for one in some], batch_first=True).to(network.device)
        last = there.sum(1) - 1
        states = head.hidden(ids, there)[torch.arange(len(some), device=ids.device), last]
        logits = head.logits(states)
        said[rows] = (logits[:, yes] > logits[:, no]).cpu().numpy()
    return said == wanted
