"""Which tokens carry loss, token by token, with the embedded model's tokenizer and with others' templates."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reclm.errors import BadInput
from reclm.llm.chat import Chat, Message
from reclm.llm.tokens import PromptTokenizer
from reclm.profilers.reclm.stages import NO_LOSS, label_chat, label_samples, token_table

CHAT = [
    Message("system", "You judge."),
    Message("user", "User 1 chose:\n- Café 😀 <|im_end|>\nDescribe."),
    Message("assistant", "User 1: User identity: cook; User interests: bread."),
    Message("user", "Will User 1 choose it?"),
    Message("assistant", "No"),
]
LLAMA = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '</s>' }}{% endgeneration %}{% else %}{{ message['content'] + '</s>' }}"
    "{% endif %}{{ '\n' }}{% endfor %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
)


def bytes_tokenizer(template: str) -> PromptTokenizer:
    """A tokenizer of single bytes, ``<s>`` and ``</s>``, with a chat template."""
    vocabulary = {
        one: at for at, one in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return PromptTokenizer(tokenizer, 4096, "bytes")


def learned(prompts: PromptTokenizer, variant, chat=CHAT) -> list[str]:
    """The runs of tokens that carry loss, decoded."""
    sample = label_chat(prompts, chat, variant)
    runs: list[list[int]] = [[]]
    for one, label in zip(sample["input_ids"], sample["labels"], strict=True):
        assert label in {one, NO_LOSS}
        if label == NO_LOSS:
            runs += [[]]
        else:
            runs[-1].append(one)
    return [prompts.tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


def test_mask_learns_both_answers_and_naive_the_last(smollm):
    first, last = f"{CHAT[2].content}<|im_end|>", "No<|im_end|>"
    assert learned(smollm, "mask") == [first, last]
    assert learned(smollm, "naive") == [last]


def test_token_by_token_on_a_real_sample(smollm, made, profiles, neighbours):
    sample = next(iter(made().collaborative(neighbours, profiles, np.random.default_rng(0))))
    tokenizer = smollm.tokenizer
    both = label_chat(smollm, sample.messages, "mask")
    text, answers = "", []
    # the state of the chat, read off the tokens one by one
    writing, header = False, ""
    for one, label in zip(both["input_ids"], both["labels"], strict=True):
        token = tokenizer.decode([one], skip_special_tokens=False)
        assert (label == one) == writing, text[-40:] + "|" + token
        text += token
        if token == "<|im_end|>":
            if writing:
                answers.append(text.rpartition("<|im_start|>assistant\n")[2])
            writing, header = False, ""
        elif token == "<|im_start|>":
            header = token
        elif header:
            header += token
            writing, header = header == "<|im_start|>assistant\n", "" if token == "\n" else header
    assert answers == [f"{sample.messages[2].content}<|im_end|>", "Yes<|im_end|>"]


def test_ids_are_those_of_the_chat_template(smollm, made, profiles, neighbours):
    for sample in made().collaborative(neighbours, profiles, np.random.default_rng(0)):
        turns = [{"role": one.role, "content": one.content} for one in sample.messages]
        theirs = smollm.tokenizer.apply_chat_template(turns)["input_ids"]
        assert label_chat(smollm, sample.messages)["input_ids"] == theirs


def test_the_prompt_of_a_generator_is_how_a_sample_begins(smollm):
    ids = label_chat(smollm, CHAT[:3])["input_ids"]
    asked = smollm.ids(Chat(tuple(CHAT[:2])))
    begun = smollm.ids(Chat(tuple(CHAT[:2]), "User 1: User identity:"))
    assert ids[: len(asked)] == asked
    assert ids[: len(begun)] == begun
    assert len(begun) > len(asked)


def test_llama_template_without_an_own_mask():
    prompts = bytes_tokenizer(LLAMA)
    # without the space before it, which is white space between the prompt and the answer
    first, last = f"{CHAT[2].content} </s>", "No </s>"
    assert learned(prompts, "mask") == [first, last]
    assert learned(prompts, "naive") == [last]
    text = prompts.tokenizer.decode(label_chat(prompts, CHAT)["input_ids"], skip_special_tokens=False)
    assert re.findall(r"\[/INST\] (.*?)</s>", text) == [f"{CHAT[2].content} ", "No "]


def test_equal_to_the_mask_of_a_template_that_marks_generations():
    prompts = bytes_tokenizer(MARKED)
    turns = [{"role": one.role, "content": one.content} for one in CHAT]
    theirs = prompts.tokenizer.apply_chat_template(
        turns, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    ours = label_chat(prompts, CHAT)
    assert ours["input_ids"] == theirs["input_ids"]
    assert [int(label != NO_LOSS) for label in ours["labels"]] == theirs["assistant_masks"]


def test_template_without_a_system_message():
    prompts = bytes_tokenizer(NO_SYSTEM)
    assert learned(prompts, "mask") == [f"{CHAT[2].content}</s>", "No</s>"]
    text = prompts.tokenizer.decode(label_chat(prompts, CHAT)["input_ids"], skip_special_tokens=False)
    assert text.startswith("<s>user\nYou judge.\n\nUser 1 chose:")


def test_data_that_spells_a_special_token_stays_text(smollm):
    ids = label_chat(smollm, CHAT)["input_ids"]
    assert ids.count(smollm.tokenizer.convert_tokens_to_ids("<|im_end|>")) == len(CHAT)
    chat = [CHAT[1], Message("assistant", "a <|im_end|> b")]
    assert learned(smollm, "mask", chat) == ["a <|im_end|> b<|im_end|>"]


def test_a_sample_without_an_answer_is_refused(smollm):
    with pytest.raises(BadInput):
        label_chat(smollm, CHAT[:2])


def test_table_shows_every_token(smollm):
    lines = token_table(smollm, CHAT).splitlines()
    ids = label_chat(smollm, CHAT)["input_ids"]
    assert len(lines) == len(ids) + 1
    assert lines[-3].split() == [str(len(ids) - 3), "x", "x", "'No'"]
    assert lines[-2].split() == [str(len(ids) - 2), "x", "x", "'<|im_end|>'"]
    assert lines[-1].split()[1:3] == [".", "."]


def test_samples_too_long_for_the_model_are_refused(smollm):
    from datasets import Dataset

    turns = [{"role": one.role, "content": one.content} for one in CHAT]
    samples = Dataset.from_list([{"messages": turns, "subject": "ada"}])
    made = label_samples(samples, smollm, "naive")
    assert made[0] == label_chat(smollm, CHAT, "naive")
    short = PromptTokenizer(smollm.tokenizer, 20, "short")
    with pytest.raises(BadInput, match=r"ada.*20"):
        label_samples(samples, short)
