"""Yes or No, by the likelier of the two."""

import numpy as np
import pytest
import torch
from datasets import Dataset, load_from_disk

from reclm.profilers.reclm.samples import messages_of
from reclm.profilers.reclm.stages import label_chat, yes_no_accuracy
from reclm.profilers.tuning.training import load_network


@pytest.fixture(scope="module")
def samples(tuned):
    data = load_from_disk(str(tuned / "collab" / "data"))
    assert isinstance(data, Dataset)
    return data.select(range(30))


@torch.no_grad()
def margin(network, prompts, row) -> float:
    """How much likelier Yes is than No, as the first token of the answer: a full forward pass over the sample."""
    logits = []
    for word in ("Yes", "No"):
        messages = messages_of([*row[:-1], {"role": "assistant", "content": word}])
        sample = label_chat(prompts, messages, "naive")
        place = next(at for at, label in enumerate(sample["labels"]) if label >= 0)
        full = network(input_ids=torch.tensor([sample["input_ids"]])).logits[0]
        logits.append(full[place - 1, sample["input_ids"][place]].item())
    return logits[0] - logits[1]


def test_it_agrees_with_the_full_logits_of_one_sample_at_a_time(tiny, samples) -> None:
    # an output layer by which Yes and No are about equally likely
    network = load_network(tiny.model).eval()
    margins = np.array([margin(network, tiny.prompts, row) for row in samples["messages"]])
    yes, no = (tiny.prompts.tokenizer.encode(word)[0] for word in ("Yes", "No"))
    head = network.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(303))
    head.bias.data[yes], head.bias.data[no] = 0.0, float(np.median(margins))
    margins -= np.median(margins)
    sure = np.abs(margins) > 1e-4
    said = yes_no_accuracy(network, tiny.prompts, samples) == (np.array(samples["label"]) == "Yes")
    assert said[sure].tolist() == (margins > 0)[sure].tolist()
    assert 0.3 < said.mean() < 0.7


def test_the_answer_that_is_given_has_no_influence(tiny, samples) -> None:
    network = load_network(tiny.model).eval()
    other = [
        {
            "messages": [*one["messages"][:-1], {"role": "assistant", "content": "whatever"}],
            "label": "No" if one["label"] == "Yes" else "Yes",
        }
        for one in samples
    ]
    assert (
        yes_no_accuracy(network, tiny.prompts, samples) != yes_no_accuracy(network, tiny.prompts, other)
    ).all()


def test_no_samples(tiny) -> None:
    assert yes_no_accuracy(load_network(tiny.model), tiny.prompts, []).shape == (0,)
