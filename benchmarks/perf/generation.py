"""Prompts a second: our engines against transformers, one prompt at a time.

    python -m reclm.benchmarks.perf.generation [--prompts 64] [--dataset ml-100k]

All answer the same profile prompts of the first users with the embedded model. The baseline is transformers' own
``generate`` in fp32, one prompt a call, made to write exactly as many tokens as our engine wrote for that prompt (and
spared the check of the profile format). It is slow and steady, so a few prompts are enough for its rate.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import reclm.data
from reclm import plugins
from reclm.benchmarks.perf.common import arguments, machine
from reclm.text.chat import Chat, Generation, SamplingParams
from reclm.text.engines.local import LocalGenerator
from reclm.text.models import LanguageModel, find_model, load_generator, transformers_folder
from reclm.workspace import Workspace


def one_at_a_time(
    model: LanguageModel, prompts: Mapping[str, list[int]], answers: Mapping[str, Generation], count: int
) -> float:
    """Prompts a second of bare ``generate`` in fp32, over the first ``count`` prompts."""
    folder = transformers_folder(model, weights=True)
    net: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    keys = list(prompts)[: count + 1]
    begun = time.perf_counter()
    with torch.inference_mode():
        for turn, key in enumerate(keys):
            if turn == 1:  # the first one warms up
                begun = time.perf_counter()
            tokens = max(answers[key].new_tokens, 1)
            ids = torch.tensor([prompts[key]])
            net.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )
    return count / (time.perf_counter() - begun)


def timed(
    engine: LocalGenerator, chats: Mapping[str, Chat], params: SamplingParams
) -> tuple[float, dict[str, Generation]]:
    """Prompts a second, and the answers by key; the model is loaded and warm."""
    warm, *_ = chats
    list(engine.generate({"warm": Chat((*chats[warm].messages[:-1],), chats[warm].answer_start)}, params))
    begun = time.perf_counter()
    answers = {answer.key: answer for answer in engine.generate(chats, params)}
    return len(chats) / (time.perf_counter() - begun), answers


def main() -> None:
    """Print the rates, their ratios and the share of equal texts."""
    parser = arguments("prompts a second of our engines", dataset="ml-100k")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--baseline-prompts", type=int, default=8)
    options = parser.parse_args()
    view = reclm.data.load(options.dataset, Workspace.at(options.home)).view()
    profiler_class = plugins.get("profiler", "zero-shot")
    model = find_model(None)
    chats, rates, answers = {}, {}, {}
    for name in ("openvino", "transformers"):
        engine = load_generator(model, name)
        assert isinstance(engine, LocalGenerator)
        profiler = profiler_class(profiler_class.Config(), engine)
        if not chats:
            subjects = profiler.subjects(view, "user", np.arange(options.prompts), {})
            chats = {subject.id: subject.source for subject in subjects}
        params = profiler.config.sampling("user")
        prompts = engine.encode(chats, params)
        rates[name], answers[name] = timed(engine, chats, params)
        del engine, profiler
    base = one_at_a_time(model, prompts, answers["transformers"], options.baseline_prompts)
    shared = next(k for k, column in enumerate(zip(*prompts.values(), strict=False)) if len(set(column)) > 1)
    lengths = [len(ids) for ids in prompts.values()]
    written = [answer.new_tokens for answer in answers["transformers"].values()]
    equal = np.mean([answers["openvino"][key].text == answers["transformers"][key].text for key in chats])
    print(f"{len(chats)} prompts of {min(lengths)} to {max(lengths)} tokens, {shared} of them shared by all;")
    print(f"{np.mean(written):.0f} new tokens on average; {machine()}")
    print(f"transformers, one at a time, fp32   {base:6.2f} prompts/s")
    for name, rate in rates.items():
        print(f"our engine {name:24} {rate:6.2f} prompts/s   {rate / base:.1f}×")
    print(f"texts equal between our engines: {equal:.0%}")


if __name__ == "__main__":
    main()
