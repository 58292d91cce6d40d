"""Both engines, on the same tiny model: equal ids in, equal texts out."""

import re

import pytest

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message, NoAnswers, SamplingParams
from reclm.llm.engines.openvino import OpenVINOGenerator
from reclm.llm.engines.transformers import TransformersGenerator

GREEDY = SamplingParams(max_new_tokens=12)
PATTERN = r" [a-z]{2,5}, [a-z]{2,5}\."
CONSTRAINED = SamplingParams(max_new_tokens=40, pattern=PATTERN, presence_penalty=1.5, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def reference(tiny_model):
    return TransformersGenerator(tiny_model, precision="f32", device="cpu", batch_size=4)


@pytest.fixture(scope="module", params=["transformers", "openvino"])
def engine(request, tiny_model, reference):
    if request.param == "transformers":
        return reference
    return OpenVINOGenerator(tiny_model, precision="f32", in_flight=3, cache_gb=1)


def chats(count=7):
    task = Message("system", "the user likes the films")
    return {f"u{n}": Chat((task, Message("user", "news " * (n + 1))), "the") for n in range(count)}


def texts(engine, chats, params):
    return {one.key: one for one in engine.generate(chats, params)}


def alone(reference, chat, params):
    """The same prompt through transformers' own generate, one at a time."""
    import torch

    ids = torch.tensor([reference.prompts.ids(chat)])
    out = reference.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=params.max_new_tokens,
        do_sample=False,
        pad_token_id=2,
    )
    return (chat.answer_start + reference.prompts.text(out[0, ids.shape[1] :].tolist())).strip()


def test_greedy_texts_are_those_of_one_prompt_at_a_time(engine, reference):
    answers = texts(engine, chats(), GREEDY)
    assert {key: one.text for key, one in answers.items()} == {
        key: alone(reference, chat, GREEDY) for key, chat in chats().items()
    }


def test_each_chat_is_answered_once_with_its_counts(engine):
    answers = list(engine.generate(chats(), GREEDY))
    assert sorted(one.key for one in answers) == sorted(chats())
    assert {one.key: one.prompt_tokens for one in answers} == engine.count_tokens(chats())
    for one in answers:
        assert one.new_tokens <= 12
        assert one.finish_reason == ("length" if one.new_tokens == 12 else "stop")


def test_no_chats_no_answers(engine):
    assert list(engine.generate({}, GREEDY)) == []


def test_constrained_answers_match_the_pattern_and_are_equal_in_both_engines(engine, reference):
    answers = texts(engine, chats(), CONSTRAINED)
    assert answers == texts(reference, chats(), CONSTRAINED)
    for one in answers.values():
        assert re.fullmatch("the" + PATTERN, one.text)
        assert one.finish_reason == "stop"


@pytest.mark.parametrize("params", [GREEDY, CONSTRAINED], ids=["greedy", "constrained"])
def test_a_text_does_not_depend_on_what_is_generated_beside_it(engine, params):
    together = texts(engine, chats(), params)
    for key in ("u0", "u5"):
        assert texts(engine, {key: chats()[key]}, params)[key] == together[key]


def test_penalties_change_the_choice(engine):
    free = texts(engine, chats(), GREEDY)
    for penalty in ({"repetition_penalty": 3.0}, {"presence_penalty": 2.0}):
        assert texts(engine, chats(), GREEDY.model_copy(update=penalty)) != free


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(engine):
    pattern = GREEDY.model_copy(update={"pattern": r" ab; cd; ef", "max_new_tokens": 30})
    whole = texts(engine, chats(2), pattern)["u0"]
    stopped = texts(engine, chats(2), pattern.model_copy(update={"stop": ("; c",)}))["u0"]
    assert whole.text == "the ab; cd; ef"
    assert (stopped.text, stopped.finish_reason) == ("the ab", "stop")
    assert stopped.new_tokens < whole.new_tokens


def test_a_stop_string_at_once_leaves_the_begun_answer(engine):
    params = GREEDY.model_copy(update={"pattern": r"; ab", "stop": (";",)})
    assert texts(engine, chats(1), params)["u0"].text == "the"


def test_the_token_limit_cuts_with_the_reason_length(engine):
    answer = texts(engine, chats(1), SamplingParams(max_new_tokens=2, pattern="[a-z]{40}"))["u0"]
    assert (answer.new_tokens, answer.finish_reason) == (2, "length")


def test_fault_14_a_prompt_too_long_costs_no_other(engine):
    long = {"long": Chat((Message("user", "films " * 300),))}
    found = {one.key: one for one in engine.generate(long | chats(1), GREEDY)}
    assert found["u0"].new_tokens
    assert not found["u0"].fault
    assert "'long' is too long" in found["long"].fault
    with pytest.raises(NoAnswers, match="'long' is too long"):
        next(engine.generate(long, GREEDY))


def test_a_generator_that_is_left_can_be_used_again(engine):
    left = engine.generate(chats(), GREEDY)
    first = next(left)
    left.close()
    assert texts(engine, chats(), GREEDY)[first.key] == first


def test_a_bad_pattern_is_one_line(engine):
    with pytest.raises(BadInput, match="pattern"):
        list(engine.generate(chats(1), SamplingParams(pattern="(unclosed")))


def test_sampling_depends_on_prompt_and_seed_alone(reference):
    warm = SamplingParams(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)
    together = texts(reference, chats(), warm)
    assert texts(reference, {"u4": chats()["u4"]}, warm)["u4"] == together["u4"]
    assert texts(reference, chats(), warm.model_copy(update={"seed": 4})) != together
    assert (
        texts(reference, chats(), warm.model_copy(update={"temperature": 0.01}))["u1"]
        == texts(reference, chats(), GREEDY)["u1"]
    )
