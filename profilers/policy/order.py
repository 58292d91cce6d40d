"""Which prompts a step answers, and with which seeds: a function of the step, so that no state need be kept."""

import torch


def generator(*numbers: int) -> torch.Generator:
    """A generator of its own for each tuple of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 6_364_136_223_846_793_005 + number + 1_442_695_040_888_963_407) % 2**63
    return torch.Generator().manual_seed(seed)


def batch_rows(
    step: int,
    size: int,
    prompts: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
    samples: int = 1,
) -> tuple[list[int], list[int]]:
    """The prompts that a process answers in a step, and a seed for each answer.

    Prompts come in a new order each time all were used; processes take turns, so that together they answer the same
    prompts with the same seeds however many they are.

    Args:
        step: steps done.
        size: prompts a step, of all processes together.
        prompts: how many there are.
        samples: answers to each; those to one prompt are next to each other.
    """
    places = range(step * size, (step + 1) * size)
    orders = {
        epoch: torch.randperm(prompts, generator=generator(seed, 0, epoch)).tolist()
        for epoch in range(places[0] // prompts, places[-1] // prompts + 1)
    }
    own = places[process::processes]
    rows = [orders[place // prompts][place % prompts] for place in own for _ in range(samples)]
    return rows, [seed * 1_000_003 + place * samples + sample for place in own for sample in range(samples)]
