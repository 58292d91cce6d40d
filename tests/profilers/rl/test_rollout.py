"""What the policy writes, and that it is what is scored."""

import pytest
import torch
from transformers import TopPLogitsWarper

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message, SamplingParams
from reclm.profilers.rl import rollout as rollouts
from reclm.profilers.rl.config import PPOConfig
from reclm.profilers.rl.rollout import PolicySampler, Rollout, draw, uniform

PROMPTS = [[1, 40], [1, 40, 50], [1, 40, 50, 60], [1, 40, 50, 60, 70]]
SAMPLED = SamplingParams(max_new_tokens=12, temperature=1.0, top_p=1.0)


def answer_of(rollout, row) -> list[int]:
    mask = rollout.answers[row]
    return rollout.ids[row, -len(mask) :][mask].tolist()


def test_layout():
    rollout = Rollout.build([[5], [6, 7]], [[8, 9, 2], [3]], [True, False], ["a", "b"])
    assert rollout.ids.tolist() == [[0, 5, 8, 9, 2], [6, 7, 3, 0, 0]]
    assert rollout.attention.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert rollout.answers.int().tolist() == [[1, 1, 1], [1, 0, 0]]
    assert rollout.unfinished.tolist() == [False, True]


def test_recomputed_log_probabilities_are_those_of_sampling(moved, llama, monkeypatch):
    seen = []

    def noted(logits, *options):
        logprobs = logits.log_softmax(-1)
        token = draw(logits, *options)
        seen.append(float(logprobs[0, token]))
        return token

    monkeypatch.setattr(rollouts, "draw", noted)
    # one row at a time
    rollout = PolicySampler(moved.decoder, llama, batch_size=1).roll_out(PROMPTS, SAMPLED, seeds=range(4))
    with torch.no_grad():
        logprobs = moved(rollout.ids, rollout.attention, rollout.answers).logprobs
    torch.testing.assert_close(logprobs[rollout.answers], torch.tensor(seen), rtol=1e-4, atol=1e-4)


def test_greedy_answers_are_those_of_generate(moved, llama):
    sampler = PolicySampler(moved.decoder, llama)
    rollout = sampler.roll_out(PROMPTS, SamplingParams(max_new_tokens=6), seeds=[0] * 4)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        alone = moved.base.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
        )
        assert answer_of(rollout, row) == alone[0, len(prompt) :].tolist()


def test_an_answer_depends_on_its_prompt_and_seed_alone(moved, llama):
    sampler = PolicySampler(moved.decoder, llama)
    four = sampler.roll_out(PROMPTS, SAMPLED, seeds=[7, 8, 9, 10])
    other_way = sampler.roll_out(PROMPTS[::-1], SAMPLED, seeds=[10, 9, 8, 7])
    small = PolicySampler(moved.decoder, llama, batch_size=2)
    assert other_way.texts == four.texts[::-1]
    assert small.roll_out(PROMPTS, SAMPLED, seeds=[7, 8, 9, 10]).texts == four.texts
    torch.manual_seed(3)
    assert sampler.roll_out(PROMPTS[2:3], SAMPLED, seeds=[9]).texts == four.texts[2:3]


def test_equal_prompts_are_read_once(moved, llama, monkeypatch):
    prompts, seeds = [PROMPTS[0], PROMPTS[0], PROMPTS[2], PROMPTS[3], PROMPTS[2]], [5, 6, 7, 8, 9]
    sampler, rows = PolicySampler(moved.decoder, llama), []
    alone = {
        at: next(iter(sampler.sample([prompt], SAMPLED, [seed])))[1]
        for at, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    }
    lower = moved.decoder.lower
    monkeypatch.setattr(moved.decoder, "lower", lambda ids, *more: rows.append(len(ids)) or lower(ids, *more))
    together = {row: new for row, new, _ in sampler.sample(prompts, SAMPLED, seeds)}
    assert together == alone
    # the three prompts, then an answer each
    assert rows[:2] == [3, 5]


def test_rows_that_are_done_leave_the_batch(moved, llama, monkeypatch):
    with torch.no_grad():
        moved.base.lm_head.weight.mul_(0.1)
    sampler, rows = PolicySampler(moved.decoder, llama), []
    lower = moved.decoder.lower
    monkeypatch.setattr(moved.decoder, "lower", lambda ids, *more: rows.append(len(ids)) or lower(ids, *more))
    long = SAMPLED.model_copy(update={"max_new_tokens": 120})
    lengths = sampler.roll_out([[1, 40]] * 32, long, seeds=range(32)).answers.sum(1)
    for step, count in enumerate(rows[1:], start=1):
        left = int((lengths > step).sum())
        assert left <= count <= max(left / 0.75, left + 1)


def test_a_token_is_drawn_by_the_inverse_of_its_distribution():
    generator = torch.Generator().manual_seed(0)
    for size in (5, 256, 1000):
        logits = 3 * torch.randn(64, size, generator=generator)
        chance = torch.rand(64, generator=generator, dtype=torch.float64)
        sums = (logits.double() / 0.7).softmax(-1).cumsum(-1)
        token = draw(logits.clone(), chance, 0.7).unsqueeze(1)
        # the first token whose cumulative probability exceeds the number, within rounding
        assert (sums.gather(1, token).squeeze(1) > chance - 1e-6).all()
        assert (
            torch.where(token > 0, sums.gather(1, (token - 1).clamp(min=0)), 0).squeeze(1) < chance + 1e-6
        ).all()
        assert torch.equal(draw(logits.clone(), chance, 0), logits.argmax(-1))


def test_tokens_without_probability_are_never_drawn():
    logits = torch.full((4, 1000), float("-inf"))
    logits[:, [3, 700]] = torch.tensor([0.0, 1.0])
    chance = torch.tensor([0.0, 0.2, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert draw(logits.clone(), chance, 1.0).tolist() == [3, 3, 700, 700]
    assert draw(logits.clone(), chance, 1.0, 0.9).tolist() == [700, 700, 700, 3]
    # e / (1 + e) = .73 of the probability are enough
    assert draw(logits.clone(), chance, 1.0, 0.7).tolist() == [700] * 4


@pytest.mark.parametrize(("spread", "size"), [(3.0, 50), (0.1, 5000)])
def test_the_nucleus_is_that_of_transformers(spread, size):
    logits = spread * torch.randn(16, size, generator=torch.Generator().manual_seed(1))
    kept = TopPLogitsWarper(0.8)(torch.empty(0), logits).isfinite()  # pyright: ignore[reportArgumentType]
    chance = torch.linspace(0, 1 - 1e-9, 200, dtype=torch.float64)
    for row in range(16):
        drawn = draw(logits[row].repeat(200, 1), chance, 1.0, 0.8)
        assert kept[row, drawn].all()
        if size == 50:
            assert len(drawn.unique()) >= 0.5 * int(kept[row].sum())


def test_random_numbers_are_splitmix64():
    # the reference generator's first three outputs from state 1234567
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for step, number in enumerate(wanted):
        assert uniform(torch.tensor([1234567]), step).tolist() == [(number >> 11) * 2.0**-53]
    numbers = torch.stack([uniform(torch.arange(500) - 250, step) for step in range(20)])
    assert len(numbers.unique()) == 10_000
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)


def test_equal_prompts_with_unlike_seeds_get_unlike_answers(moved, llama):
    sampler = PolicySampler(moved.decoder, llama)
    rollout = sampler.roll_out([PROMPTS[0]] * 3, SAMPLED, seeds=[1, 2, 1])
    assert rollout.texts[0] == rollout.texts[2] != rollout.texts[1]


def test_the_token_that_ends_an_answer_belongs_to_it(moved, llama):
    end = 2
    with torch.no_grad():
        moved.base.lm_head.weight.mul_(0.1)
    sampler = PolicySampler(moved.decoder, llama)
    long = SAMPLED.model_copy(update={"max_new_tokens": 100})
    rollout = sampler.roll_out([PROMPTS[0]] * 32, long, seeds=range(32))
    lengths = rollout.answers.sum(1).tolist()
    for row, length in enumerate(lengths):
        answer = answer_of(rollout, row)
        assert (answer[-1] == end) == (not rollout.unfinished[row])
        assert end not in answer[:-1]
        assert length <= 100
    assert not rollout.unfinished.all()


def test_an_answer_ends_behind_a_stop_string(moved, llama):
    sampler = PolicySampler(moved.decoder, llama)
    config = PPOConfig(max_new_tokens=60, stop=("e",))
    free = sampler.roll_out([PROMPTS[0]] * 16, config.sampling.model_copy(update={"stop": ()}), range(16))
    rollout = sampler.roll_out([PROMPTS[0]] * 16, config.sampling, range(16))
    for row, before in enumerate(free.texts):
        if "e" not in before:
            continue
        # the same words up to the token that has the first e
        assert not rollout.unfinished[row]
        assert before.startswith(rollout.texts[row])
        assert "e" not in sampler.decode(answer_of(rollout, row)[:-1])
    assert any("e" in text for text in free.texts)


def test_sampling_follows_the_policy_as_it_changes(policy, llama):
    sampler = PolicySampler(policy.decoder, llama)
    before = sampler.roll_out(PROMPTS, SAMPLED, seeds=range(4)).texts
    with torch.no_grad():
        for name, one in policy.named_parameters():
            if "lora_B" in name:
                one.add_(0.5)
    assert sampler.roll_out(PROMPTS, SAMPLED, seeds=range(4)).texts != before
    with policy.reference():
        assert sampler.roll_out(PROMPTS, SAMPLED, seeds=range(4)).texts == before


def test_it_is_a_text_generator_too(policy, llama):
    sampler = PolicySampler(policy.decoder, llama)
    (one,) = sampler.generate({"ada": Chat((Message("user", "the films"),))}, SAMPLED)
    assert one.key == "ada"
    assert sampler.model == f"{llama.name}+policy"


def test_bad_input(policy, llama):
    sampler = PolicySampler(policy.decoder, llama)
    with pytest.raises(BadInput):
        sampler.roll_out([], SAMPLED, seeds=[])
    with pytest.raises(BadInput):
        sampler.roll_out([[1], []], SAMPLED, seeds=[0, 1])
    with pytest.raises(BadInput, match="120"):
        sampler.roll_out([[1] * 120], SAMPLED, seeds=[0])
    with pytest.raises(BadInput, match="answer 0"):
        Rollout.build([[1]], [[]], [True], [""])
