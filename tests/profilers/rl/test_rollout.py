"""What the policy writes, and that it is what is scored."""

import pytest
import torch

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message, SamplingParams
from reclm.llm.engines.transformers import NetworkGenerator
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.policy import Rollout, roll_out

PROMPTS = [[1, 40], [1, 40, 50], [1, 40, 50, 60], [1, 40, 50, 60, 70]]
SAMPLED = SamplingParams(max_new_tokens=12, temperature=1.0, top_p=1.0)


class _Recorder:
    """Notes the log-probability of each chosen token."""

    def __init__(self, chooser, seen):
        self.chooser, self.rows = chooser, seen

    def __call__(self, logits):
        tokens, ends = self.chooser(logits)
        logprobs = logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        for row, one in zip(self.rows, logprobs.tolist(), strict=True):
            row.append(one)
        return tokens, ends

    def keep(self, left):
        self.chooser.keep(left)
        self.rows = [self.rows[place] for place in left]


class Recording(NetworkGenerator):
    """Keeps the log-probabilities of sampling, row by row."""

    def chooser(self, prompts, params, seeds=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        self.logprobs = [[] for _ in prompts]
        return _Recorder(super().chooser(prompts, params, seeds), list(self.logprobs))


def answer_of(rollout, row) -> list[int]:
    mask = rollout.answers[row]
    return rollout.ids[row, -len(mask) :][mask].tolist()


def test_layout():
    rollout = Rollout.build([[5], [6, 7]], [[8, 9, 2], [3]], [True, False], ["a", "b"])
    assert rollout.ids.tolist() == [[0, 5, 8, 9, 2], [6, 7, 3, 0, 0]]
    assert rollout.attention.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert rollout.answers.int().tolist() == [[1, 1, 1], [1, 0, 0]]
    assert rollout.unfinished.tolist() == [False, True]


def test_recomputed_log_probabilities_are_those_of_sampling(moved, llama):
    sampler = Recording(moved.base, llama)
    rollout = roll_out(sampler, PROMPTS, SAMPLED, seeds=range(4))
    with torch.no_grad():
        logprobs = moved(rollout.ids, rollout.attention, rollout.answers).logprobs
    lengths = rollout.answers.sum(1).tolist()
    for row, length in enumerate(lengths):
        wanted = torch.tensor(sampler.logprobs[row][:length])
        torch.testing.assert_close(logprobs[row, :length], wanted, rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_those_of_generate(moved, llama):
    sampler = NetworkGenerator(moved.base, llama)
    rollout = roll_out(sampler, PROMPTS, SamplingParams(max_new_tokens=6), seeds=[0] * 4)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = moved.base.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        assert answer_of(rollout, row) == alone[0, len(prompt) :].tolist()


def test_an_answer_depends_on_its_prompt_and_seed_alone(moved, llama):
    sampler = NetworkGenerator(moved.base, llama)
    four = roll_out(sampler, PROMPTS, SAMPLED, seeds=[7, 8, 9, 10])
    other_way = roll_out(sampler, PROMPTS[::-1], SAMPLED, seeds=[10, 9, 8, 7])
    small = NetworkGenerator(moved.base, llama, batch_size=2)
    assert other_way.texts == four.texts[::-1]
    assert roll_out(small, PROMPTS, SAMPLED, seeds=[7, 8, 9, 10]).texts == four.texts
    torch.manual_seed(3)
    assert roll_out(sampler, PROMPTS[2:3], SAMPLED, seeds=[9]).texts == four.texts[2:3]


def test_equal_prompts_are_read_once(moved, llama, monkeypatch):
    prompts, seeds = [PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[3], PROMPTS[2]], [5, 6, 7, 8, 9]
    sampler, rows = NetworkGenerator(moved.base, llama), []
    alone = {
        at: next(iter(sampler.sample([prompt], SAMPLED, [seed])))[1]
        for at, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    }
    forward = sampler.network.forward
    monkeypatch.setattr(
        sampler.network, "forward", lambda **given: rows.append(len(given["input_ids"])) or forward(**given)
    )
    together = {row: new for row, new, _ in sampler.sample(prompts, SAMPLED, seeds)}
    assert together == alone
    # what all begin with, then the three prompts, then an answer each
    assert rows[:3] == [1, 3, 5]


def test_equal_prompts_with_unlike_seeds_get_unlike_answers(moved, llama):
    sampler = NetworkGenerator(moved.base, llama)
    rollout = roll_out(sampler, [PROMPTS[0]] * 3, SAMPLED, seeds=[1, 2, 1])
    assert rollout.texts[0] == rollout.texts[2] != rollout.texts[1]


def test_the_token_that_ends_an_answer_belongs_to_it(moved, llama):
    end = 2
    with torch.no_grad():
        moved.base.lm_head.weight.mul_(0.1)
    sampler = NetworkGenerator(moved.base, llama)
    long = SAMPLED.model_copy(update={"max_new_tokens": 100})
    rollout = roll_out(sampler, [PROMPTS[0]] * 32, long, seeds=range(32))
    lengths = rollout.answers.sum(1).tolist()
    for row, length in enumerate(lengths):
        answer = answer_of(rollout, row)
        assert (answer[-1] == end) == (not rollout.unfinished[row])
        assert end not in answer[:-1]
        assert length <= 100
    assert not rollout.unfinished.all()


def test_an_answer_ends_behind_a_stop_string(moved, llama):
    sampler = NetworkGenerator(moved.base, llama)
    config = PPOConfig(max_new_tokens=60, stop=("e",))
    free = roll_out(sampler, [PROMPTS[0]] * 16, config.sampling.model_copy(update={"stop": ()}), range(16))
    rollout = roll_out(sampler, [PROMPTS[0]] * 16, config.sampling, range(16))
    for row, before in enumerate(free.texts):
        if "e" not in before:
            continue
        # the same words up to the token that has the first e
        assert not rollout.unfinished[row]
        assert before.startswith(rollout.texts[row])
        assert "e" not in sampler.decode(answer_of(rollout, row)[:-1])
    assert any("e" in text for text in free.texts)


def test_sampling_follows_the_policy_as_it_changes(policy, llama):
    sampler = NetworkGenerator(policy.base, llama)
    before = roll_out(sampler, PROMPTS, SAMPLED, seeds=range(4)).texts
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_B" in name:
                one.add_(0.5)
    assert roll_out(sampler, PROMPTS, SAMPLED, seeds=range(4)).texts != before
    with policy.reference():
        assert roll_out(sampler, PROMPTS, SAMPLED, seeds=range(4)).texts == before


def test_it_is_a_text_generator_too(policy, llama):
    sampler = NetworkGenerator(policy.base, llama)
    (one,) = sampler.generate({"ada": Chat((Message("user", "the films"),))}, SAMPLED)
    assert one.key == "ada"
    assert sampler.model == f"{llama.name}+policy"


def test_bad_input(policy, llama):
    sampler = NetworkGenerator(policy.base, llama)
    with pytest.raises(BadInput):
        roll_out(sampler, [], SAMPLED, seeds=[])
    with pytest.raises(BadInput):
        roll_out(sampler, [[1], []], SAMPLED, seeds=[0, 1])
    with pytest.raises(BadInput, match="120"):
        roll_out(sampler, [[1] * 120], SAMPLED, seeds=[0])
    with pytest.raises(BadInput, match="answer 0"):
        Rollout.build([[1]], [[]], [True], [""])
