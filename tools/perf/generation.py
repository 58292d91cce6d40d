"""Profile generation against one prompt at a time: ``python -m tools.perf.generation --prompts 64``.

The prompts are the zero-shot profiler's for users of ml-100k. The yardstick is transformers' own ``generate`` in fp32,
one prompt after the other, with the same weights, token ids and grammar, half of it before and half behind the
engines. Loading does not count, and a prompt that is not among them warms everything up.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList

import reclm
from reclm.llm.chat import Chat, SamplingParams, TextGenerator
from reclm.llm.engines.openvino import OpenVINOGenerator
from reclm.llm.engines.transformers import TokenChooser, TransformersGenerator, shared_prefix
from reclm.llm.models import find_model
from reclm.profilers.zero_shot import ZeroShot, ZeroShotConfig
from tools.perf.common import machine, side_by_side


class _Chosen(LogitsProcessor):
    """Leaves the one token that our rules choose; the end, once the answer is complete."""

    def __init__(self, chooser: TokenChooser, end: int) -> None:
        self._chooser, self._end, self._done = chooser, end, False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        token = torch.tensor([self._end])
        if not self._done:
            token, ended = self._chooser(scores)
            self._done = bool(ended)
        return torch.full_like(scores, float("-inf")).scatter_(1, token.unsqueeze(1), 0.0)


def one_at_a_time(
    reference: TransformersGenerator, chats: dict[str, Chat], params: SamplingParams
) -> dict[str, str]:
    """Texts by transformers' ``generate``, no batch, no prefix."""
    texts, end = {}, min(reference.end_ids)
    for key, chat in chats.items():
        prompt = reference.prompts.ids(chat)
        ids = torch.tensor([prompt])
        written = reference.network.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=params.max_new_tokens,
            do_sample=False,
            pad_token_id=end,
            logits_processor=LogitsProcessorList([_Chosen(reference.chooser([prompt], params), end)]),
        )
        new = written[0, len(prompt) :].tolist()
        texts[key] = reference.read(key, chat, prompt, new, False, params).text
    return texts


def run(
    engine: TextGenerator, chats: dict[str, Chat], params: SamplingParams
) -> tuple[float, dict[str, str], float]:
    """Seconds, texts and mean new tokens."""
    begun = time.perf_counter()
    answers = list(engine.generate(chats, params))
    seconds = time.perf_counter() - begun
    return (
        seconds,
        {one.key: one.text for one in answers},
        float(np.mean([one.new_tokens for one in answers])),
    )


def most_prompts(reference: TransformersGenerator, chats: list[Chat], new: float) -> float:
    """Prompts/s if nothing but the products of each prompt's own and new tokens took time.

    Two operations a weight and token; the shared beginning is free. The rate of operations is that of the model's own
    widest layer, on 256 tokens, in fp32.
    """
    prompts = [reference.prompts.ids(chat) for chat in chats]
    own = float(np.mean([len(prompt) for prompt in prompts])) - len(shared_prefix(prompts))
    network, head = reference.network, reference.network.get_output_embeddings()
    vocabulary = head.weight.numel()
    body = sum(parameter.numel() for parameter in network.parameters()) - vocabulary
    layers = (one for one in network.modules() if isinstance(one, nn.Linear) and one is not head)
    weight = max((layer.weight for layer in layers), key=torch.numel)
    tokens = torch.randn(256, weight.shape[1])
    with torch.inference_mode():
        seconds = side_by_side({"product": lambda: tokens @ weight.T}, repeats=50)["product"]
    rate = 2 * 256 * weight.numel() / seconds
    return rate / (2 * body * (own + new) + 2 * vocabulary * (1 + new))


def main() -> None:
    """Print prompts/s of the yardstick, both engines and the bound, their ratios, and how many texts are equal."""
    parser = argparse.ArgumentParser(description="profile generation against one prompt at a time")
    parser.add_argument("--prompts", type=int, default=64, help="for the engines")
    parser.add_argument("--single", type=int, default=16, help="for the yardstick, of the same")
    parser.add_argument("--dataset", default="ml-100k", help="name or folder of a prepared data set")
    parser.add_argument("--model", default=None, help="as for reclm profile")
    parser.add_argument("--precision", default="auto", choices=("auto", "f32", "bf16"), help="of the engines")
    parser.add_argument("--home", type=Path, default=None, help="workspace folder")
    options = parser.parse_args()

    found = find_model(options.model)
    reclm.workspace(options.home)
    view = reclm.load_dataset(options.dataset).view()
    reference = TransformersGenerator(found, precision="f32", device="cpu")
    profiler = ZeroShot(ZeroShotConfig(), model=reference)
    params = profiler.config.sampling("user")
    chats: dict[str, Chat] = {}
    for subject in profiler.subjects(view, "user", np.arange(len(view.users)), {}):
        assert isinstance(subject.source, Chat)
        chats[subject.prompt_hash] = subject.source
        if len(chats) > options.prompts:
            break
    warm_up = dict([chats.popitem()])
    tokens = np.array([len(reference.prompts.ids(chat)) for chat in chats.values()])
    print(f"{len(chats)} prompts of {tokens.min()} to {tokens.max()} tokens, {found.name}; {machine()}")

    engines: dict[str, TextGenerator] = {
        "transformers": TransformersGenerator(found, precision=options.precision),
        "openvino": OpenVINOGenerator(found, precision=options.precision),
    }
    one_at_a_time(reference, warm_up, params)
    for engine in engines.values():
        run(engine, warm_up, params)

    single = dict(list(chats.items())[: options.single])
    halves = list(single.items())[::2], list(single.items())[1::2]
    begun = time.perf_counter()
    texts = one_at_a_time(reference, dict(halves[0]), params)
    seconds = time.perf_counter() - begun
    results = {name: run(engine, chats, params) for name, engine in engines.items()}
    begun = time.perf_counter()
    texts |= one_at_a_time(reference, dict(halves[1]), params)
    rate = len(single) / (seconds + time.perf_counter() - begun)

    bound = most_prompts(
        reference, list(chats.values()), float(np.mean([new for _, _, new in results.values()]))
    )
    print(f"{'one at a time, fp32':20} {rate:6.2f} prompts/s")
    for name, (took, written, new) in results.items():
        equal = np.mean([written[key] == text for key, text in texts.items()])
        print(
            f"{name:20} {len(chats) / took:6.2f} prompts/s   {len(chats) / took / rate:5.1f}x   "
            f"{new:.1f} new tokens   {equal:.0%} of the texts equal"
        )
    print(
        f"{'bound in fp32':20} {bound:6.2f} prompts/s   {bound / rate:5.1f}x   what these cores multiply, and no more"
    )


if __name__ == "__main__":
    main()
