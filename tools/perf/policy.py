"""An update of RLSO by part: ``OMP_NUM_THREADS=2 python -m tools.perf.policy``.

The same prompts of random tokens (a third of them shared, as instructions are) are answered and learned from by the
last layers, trained whole; by LoRA on all layers; and by the loop of version 0.1: LoRA, float32, answers drawn row by
row with the adapter beside the weights, each prompt read anew for each answer, scoring and pass. Beside them stand the
bounds: transformers' own batched ``generate`` on the bare network, and forward and backward of the same layers on as
many tokens, without padding, masks, cache or loss of RLSO. Rewards are a rule's. Each runs in a process of its own,
whose most memory is printed. The old loop is timed on ``--previous`` prompts, and its time multiplied.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from reclm.llm.engines.transformers import NetworkGenerator, resolved_precision
from reclm.llm.models import find_model, transformers_folder
from reclm.profilers.rl.config import RLSOConfig
from reclm.profilers.rl.losses import rlso_loss
from reclm.profilers.rl.policy import Policy
from reclm.profilers.rl.rlso import RLSO
from reclm.profilers.rl.rollout import PolicySampler, Rollout, sample_all
from reclm.profilers.tuning.adapter import LoraOptions
from reclm.profilers.tuning.training import load_network
from tools.perf.common import machine, peak_memory

PARTS = ("roll-out", "score", "update")
Seconds = dict[str, float]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None, help="as for reclm profile")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--samples", type=int, default=4, help="answers to each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--layers", type=int, default=4, help="trained ones, of the kind last_layers")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="updates; the least time of each part counts")
    parser.add_argument("--previous", type=int, default=4, help="prompts of the old loop; 0 leaves it out")
    parser.add_argument("--kinds", default="last_layers,adapter,generate,previous")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(json.dumps({**KINDS[options.kind](options), "memory": float(peak_memory())}))
        return
    kinds = [kind for kind in options.kinds.split(",") if kind != "previous" or options.previous]
    _report(options, {kind: _apart(kind) for kind in kinds})


def _apart(kind: str) -> Seconds:
    """Return what this command prints for one kind, in a process of its own."""
    command = [sys.executable, "-m", "tools.perf.policy", *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _report(options: argparse.Namespace, found: dict[str, Seconds]) -> None:
    answers = options.prompts * options.samples
    print(
        f"{machine()}; {find_model(options.model).name}: {answers} answers of up to {options.new_tokens} tokens to "
        f"{options.prompts} prompts of {options.prompt_tokens}, {options.passes} passes"
    )
    print(f"{'seconds':12}" + "".join(f"{name:>10}" for name in (*PARTS, "all", "tokens/s", "MiB")))
    for kind, row in found.items():
        parts = [row.get(part, float("nan")) for part in PARTS]
        cells = [*parts, sum(parts), row["tokens"] / row["roll-out"], row["memory"] / 2**20]
        print(f"{kind:12}" + "".join(f"{cell:10.1f}" for cell in cells))
    if row := found.get("last_layers"):
        bound, took = row["bound"], row["score"] + row["update"]
        print(f"score and update: {bound / took:.0%} of the bare forward and backward ({bound:.1f} s)")
        if "generate" in found:
            rates = [one["tokens"] / one["roll-out"] for one in (row, found["generate"])]
            print(f"roll-out: {rates[0] / rates[1]:.0%} of the tokens per second of bare generate")
        if "previous" in found:
            before = sum(found["previous"][part] for part in PARTS)
            print(f"all: {before / (took + row['roll-out']):.1f} times as fast as the loop of version 0.1")


def _loop(options: argparse.Namespace, lora: LoraOptions) -> Seconds:
    """Return the least seconds of each part of an update, and those of the bare layers."""
    model = find_model(options.model)
    config = _config(options)
    policy = Policy.adapt(load_network(model, full=lora.whole), lora, precision=config.precision)
    sampler = PolicySampler(policy.decoder, model)
    prompts = _prompts(options, options.prompts, policy.base.config.vocab_size)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    rlso = RLSO(policy, sampler, prompts, lambda texts, rows: list(map(len, texts)), config, accelerator)
    rows = [rlso.train_step() for _ in range(options.repeats + 1)][1:]
    names = {"roll-out": "rollout_seconds", "score": "score_seconds", "update": "update_seconds"}
    seconds = {part: min(row[name] for row in rows) for part, name in names.items()}
    seconds["tokens"] = min(row["rollout_tokens"] * row["rollout_seconds"] for row in rows)
    return seconds | {"bound": _bare(options, policy)}


def _bare(options: argparse.Namespace, policy: Policy) -> float:
    """Return the seconds of the trained layers and the output layer alone, on as many tokens as an update has."""
    decoder, answers = policy.decoder, options.prompts * options.samples
    size = policy.base.config.hidden_size
    batches = [
        torch.randn(count, length, size, device=decoder.device)
        for count, length in ((options.prompts, options.prompt_tokens), (answers, options.new_tokens))
    ]

    def whole(states: torch.Tensor) -> torch.Tensor:
        """Return the attention mask of rows without padding."""
        return torch.ones(states.shape[:2], device=decoder.device)

    def forward() -> torch.Tensor:
        total = torch.zeros((), device=decoder.device)
        for number in range(0, answers, 16):
            groups = batches[0][number // options.samples :][: 16 // options.samples]
            replies = batches[1][number : number + 16]
            logits = decoder.logits(decoder.upper(replies, whole(replies)).flatten(0, 1))
            labels = torch.zeros(len(logits), dtype=torch.long, device=decoder.device)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            loss = loss + decoder.upper(groups, whole(groups)).mean()
            if torch.is_grad_enabled():
                loss.backward()
            total += loss.detach()
        return total

    def both() -> None:
        with torch.no_grad():
            forward()
            forward()
        for _ in range(options.passes):
            forward()

    return _least(both, options.repeats)


def _generate(options: argparse.Namespace) -> Seconds:
    """Return the seconds that transformers takes for the same answers, on the bare network."""
    model = find_model(options.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if resolved_precision("auto", torch.device(device)) == "bf16" else torch.float32
    network: Any = AutoModelForCausalLM.from_pretrained(transformers_folder(model, weights=True), dtype=dtype)
    network.to(device).eval()
    prompts = _prompts(options, options.prompts, network.config.vocab_size)
    ends = NetworkGenerator(network, model).end_ids
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts], device=device)
    counts: list[int] = []

    @torch.inference_mode()
    def run() -> None:
        written = network.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=options.new_tokens,
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            num_return_sequences=options.samples,
            pad_token_id=0,
            eos_token_id=sorted(ends),
        )[:, longest:]
        ended = torch.isin(written, torch.tensor(sorted(ends), device=device)).long()
        counts.append(int((ended.cumsum(1) - ended == 0).sum()))

    return {"roll-out": _least(run, options.repeats), "tokens": sum(counts[1:]) / len(counts[1:])}


def _previous(options: argparse.Namespace) -> Seconds:
    """Return the seconds of version 0.1's loop, in proportion to the prompts that it is timed on."""
    model, count, config = find_model(options.model), options.previous, _config(options)
    policy = Policy.adapt(load_network(model, device="cpu"), LoraOptions(), precision="f32")
    sampler = NetworkGenerator(policy.base, model)
    prompts = _prompts(options, count, policy.base.config.vocab_size)
    prompts = [prompt for prompt in prompts for _ in range(options.samples)]
    seconds = dict.fromkeys(PARTS, 0.0)
    begun = perf_counter()
    tokens, ended = zip(*sample_all(sampler, prompts, config.sampling, range(len(prompts))), strict=True)
    rollout = Rollout.build(prompts, tokens, ended, [""] * len(tokens))
    seconds["roll-out"], begun = perf_counter() - begun, perf_counter()
    batches = torch.arange(len(prompts)).split(8)

    def scored(rows: torch.Tensor) -> torch.Tensor:
        parts = rollout.ids[rows], rollout.attention[rows], rollout.answers[rows]
        return policy(*parts).logprobs.sum(1).view(-1, options.samples)

    with torch.no_grad():
        old = torch.cat([scored(rows) for rows in batches])
        with policy.reference():
            _ = [scored(rows) for rows in batches]
    seconds["score"], begun = perf_counter() - begun, perf_counter()
    for _ in range(options.passes):
        for rows, before in zip(batches, old.split(8 // options.samples), strict=True):
            rlso_loss(scored(rows), before, torch.randn(before.shape), 1.0).backward()
    seconds["update"] = perf_counter() - begun
    scale = options.prompts / count
    return {name: scale * one for name, one in seconds.items()} | {
        "tokens": scale * float(rollout.answers.sum())
    }


def _config(options: argparse.Namespace) -> RLSOConfig:
    sizes = {"batch_size": options.prompts, "minibatch_size": options.prompts, "samples": options.samples}
    return RLSOConfig(
        steps=100, epochs=options.passes, max_new_tokens=options.new_tokens, learning_rate=1e-6, **sizes
    )


def _prompts(options: argparse.Namespace, count: int, vocabulary: int) -> list[list[int]]:
    drawn = partial(torch.randint, 5, vocabulary, generator=torch.Generator().manual_seed(0))
    shared = drawn((options.prompt_tokens // 3,)).tolist()
    lengths = [options.prompt_tokens - len(shared) - row % 4 for row in range(count)]
    return [shared + drawn((length,)).tolist() for length in lengths]


def _least(run: Callable[[], None], times: int) -> float:
    """Return the least seconds of some runs, of which the first does not count."""
    seconds = []
    for _ in range(times + 1):
        begun = perf_counter()
        run()
        seconds.append(perf_counter() - begun)
    return min(seconds[1:])


KINDS: dict[str, Callable[[argparse.Namespace], Seconds]] = {
    "last_layers": lambda options: _loop(options, LoraOptions(train="last_layers", layers=options.layers)),
    "adapter": lambda options: _loop(options, LoraOptions()),
    "generate": _generate,
    "previous": _previous,
}

if __name__ == "__main__":
    main()
