"""Roll-outs of a policy against bare ``generate``: ``python -m tools.perf.policy``.

All write for the same prompts of random tokens (a third of them shared, as instructions are) in one batch, at the same
temperature and top-p: our roll-out, transformers' ``generate`` on the policy's own network, adapter and all, and on the
network without it. Rates are tokens up to each answer's end. Beside it, what the policy, its reference and its value
function take in memory, against one model with the adapter's optimiser.
"""

import argparse
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from reclm.llm.chat import SamplingParams
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.llm.models import find_model, transformers_folder
from reclm.profilers.rl.policy import Policy, roll_out
from tools.perf.common import machine, side_by_side


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None, help="as for reclm profile")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=300)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    model = find_model(options.model)
    folder = transformers_folder(model, weights=True)
    bare = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    policy = Policy.adapt(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    sampler = NetworkGenerator(policy.base, model, options.prompts)
    prompts = _prompts(options.prompts, options.prompt_tokens, bare.config.vocab_size)
    params = SamplingParams(max_new_tokens=options.new_tokens, temperature=0.9, top_p=0.9)
    tokens: dict[str, list[int]] = {}

    def rolled() -> None:
        rollout = roll_out(sampler, prompts, params, range(len(prompts)))
        tokens.setdefault("roll-out", []).append(int(rollout.answers.sum()))

    def generated(name: str, network: torch.nn.Module) -> None:
        tokens.setdefault(name, []).append(_generated(network, prompts, params, sampler.end_ids))

    candidates: dict[str, Callable[[], object]] = {
        "roll-out": rolled,
        "generate, with the adapter": lambda: generated("generate, with the adapter", policy.base),
        "generate, bare": lambda: generated("generate, bare", bare),
    }
    seconds = side_by_side(candidates, options.repeats)
    print(f"{machine()}; {model.name}, {options.prompts} prompts of about {options.prompt_tokens} tokens")
    # the first round warms up
    rates = {name: sum(tokens[name][1:]) / len(tokens[name][1:]) / seconds[name] for name in candidates}
    for name, rate in rates.items():
        print(f"{name:28} {rate:6.0f} tokens/s   {rates['roll-out'] / rate:.2f} is the roll-out's share")
    one = _bytes(policy.network) + 2 * _bytes(policy.network, learned=True)
    head = _bytes(policy.value_head)
    print(
        f"weights and optimiser: policy, reference and value {(one + 3 * head) / 2**20:.0f} MiB, "
        f"one adapted model {one / 2**20:.0f} MiB, ratio {(one + 3 * head) / one:.3f}"
    )


def _prompts(count: int, length: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)

    def drawn(many: int) -> list[int]:
        return torch.randint(5, vocabulary, (many,), generator=generator).tolist()

    shared = drawn(length // 3)
    return [shared + drawn(length - length // 3 - row % 4) for row in range(count)]


@torch.inference_mode()
def _generated(
    network: torch.nn.Module, prompts: list[list[int]], params: SamplingParams, ends: frozenset[int]
) -> int:
    """Tokens that ``generate`` writes, the one that ends an answer included."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    written = network.generate(  # pyright: ignore[reportCallIssue]
        ids,
        attention_mask=mask,
        max_new_tokens=params.max_new_tokens,
        do_sample=True,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=0,
        pad_token_id=0,
        eos_token_id=sorted(ends),
    )[:, longest:]
    ended = torch.isin(written, torch.tensor(sorted(ends))).long()
    return int((ended.cumsum(1) - ended == 0).sum())


def _bytes(module: torch.nn.Module, learned: bool = False) -> int:
    chosen = (one for one in module.parameters() if one.requires_grad or not learned)
    return sum(one.numel() * one.element_size() for one in chosen)


if __name__ == "__main__":
    main()
