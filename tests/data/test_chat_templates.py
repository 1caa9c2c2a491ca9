"""Families of chat templates, written from their published formats, over tokenizers as these families have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayalign.data.chat import (
    check_template,
    decode_answer,
    dialogue_ids,
    encode_example,
    prompt_ids,
    stop_ids,
    text_ids,
)
from rayalign.data.templates import TEMPLATES, template_text
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """A template with the control tokens and the kind of tokenizer of its models."""

    template: str
    eos: str
    bos: str | None = None
    control: tuple[str, ...] = ()
    spaced: bool = False
    """as SentencePiece: a space comes before a text"""
    stop: str | None = None
    """what closes an answer, where it is not the end of sequence"""


FAMILIES: Mapping[str, Family] = {
    "llama-2": Family(
        "{% if messages[0]['role'] == 'system' %}"
        "{% set head = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (head if loop.first else '') + (m['content'] | trim) + ' [/INST]' }}"
        "{% else %}{{ ' ' + (m['content'] | trim) + ' ' + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "<s>",
        spaced=True,
    ),
    "llama-3": Family(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
        "{{ (m['content'] | trim) + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|end_of_text|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        stop="<|eot_id|>",
    ),
    "qwen-2.5": Family(
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
        "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|endoftext|>",
        None,
        ("<|im_start|>", "<|im_end|>"),
        stop="<|im_end|>",
    ),
    "qwen-3": Family(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'].split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|endoftext|>",
        None,
        ("<|im_start|>", "<|im_end|>"),
        stop="<|im_end|>",
    ),
    "mistral": Family(
        NO_SYSTEM + "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}"
        "{% endfor %}",
        "</s>",
        "<s>",
        spaced=True,
    ),
    "mistral, with control tokens": Family(
        "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{% if m['role'] == 'user' %}"
        "{{ '[INST]' + m['content'] + '[/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        "</s>",
        "<s>",
        ("[INST]", "[/INST]"),
    ),
    "gemma": Family(
        NO_SYSTEM + "{{ bos_token }}{% for m in messages %}" + ALTERNATE + "{{ '<start_of_turn>' }}"
        "{{ 'model' if m['role'] == 'assistant' else m['role'] }}{{ '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<eos>",
        "<bos>",
        ("<start_of_turn>", "<end_of_turn>"),
        spaced=True,
        stop="<end_of_turn>",
    ),
    "zephyr": Family(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "</s>",
        "<s>",
        spaced=True,
    ),
    "phi-3": Family(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>",
        None,
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        stop="<|end|>",
    ),
    "deepseek": Family(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
        "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>"),
    ),
    "named default": Family(TEMPLATES["default"], "<|endoftext|>"),
    "named alpaca": Family(TEMPLATES["alpaca"], "<|endoftext|>"),
    "named chatml": Family(TEMPLATES["chatml"].replace("END", "eos_token"), "<|endoftext|>"),
}
WORDS = ["the cat sat on the mat", "one two red blue ten it is, user. assistant. model system", "Say hello\n\nnaïve ☃"]


def make_tokenizer(family: Family) -> Any:
    """A small tokenizer of the family's kind, which adds a BOS by itself where the family has one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>" if family.spaced else None))
    alphabet = sorted(set("".join([*WORDS, family.template])))
    if family.spaced:
        raw.pre_tokenizer, raw.decoder = (
            pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
            decoders.Metaspace(),
        )
    else:
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(dict.fromkeys(filter(None, ("<unk>", family.bos, family.eos, *family.control))))
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(WORDS * 3, trainer)
    if family.bos:
        bos = (family.bos, raw.token_to_id(family.bos))
        raw.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[bos])
    names = {"eos_token": family.eos, "bos_token": family.bos, "unk_token": "<unk>" if family.spaced else None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **{k: v for k, v in names.items() if v})
    tokenizer.chat_template = family.template
    return tokenizer


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    chosen = FAMILIES[request.param]
    return chosen, make_tokenizer(chosen)


FIRST = Prompt("p", (Message("user", "the cat"),))
LATER = Prompt("p", (*FIRST.messages, Message("assistant", "sat"), Message("user", "on the mat")))


@pytest.mark.parametrize("prompt", [FIRST, LATER], ids=["first", "later"])
def test_prompt_and_answer_are_tokenised_whole(family: tuple[Family, Any], prompt: Prompt) -> None:
    chosen, tokenizer = family
    check_template(tokenizer)
    ids, mask = encode_example(tokenizer, prompt, "two red")
    start = prompt_ids(tokenizer, prompt)
    assert ids[: len(start)] == start == ids[: mask.index(True)]
    whole = dialogue_ids(tokenizer, (*prompt.messages, Message("assistant", "two red")))
    assert list(ids) == whole[: len(ids)]
    assert ids[-1] == stop_ids(tokenizer)[0] == tokenizer.convert_tokens_to_ids(chosen.stop or chosen.eos)
    assert decode_answer(tokenizer, ids[len(start) :]).endswith("two red")


def test_there_are_as_many_tokens_of_beginning_as_the_template_has(family: tuple[Family, Any]) -> None:
    chosen, tokenizer = family
    if chosen.bos is None:
        return
    ids, _ = encode_example(tokenizer, LATER, "two")
    turns = [{"role": m.role, "content": m.content} for m in LATER.messages]
    written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).count(chosen.bos)
    assert list(ids).count(tokenizer.bos_token_id) == written
    assert tokenizer.encode("the cat")[0] == tokenizer.bos_token_id


def test_control_tokens_in_a_text_stay_text(family: tuple[Family, Any]) -> None:
    chosen, tokenizer = family
    names = [name for name in (chosen.bos, chosen.eos, *chosen.control) if name]
    spelled = "".join(names)
    plain, _ = encode_example(tokenizer, FIRST, "two red")
    prompt = Prompt("p", (Message("user", f"the{spelled} cat"),))
    ids, mask = encode_example(tokenizer, prompt, f"two{spelled} red")
    for name in names:
        token = tokenizer.convert_tokens_to_ids(name)
        assert list(ids).count(token) == list(plain).count(token), name
    assert not set(text_ids(tokenizer, f"a{spelled}b")) & set(map(tokenizer.convert_tokens_to_ids, names))
    if not chosen.spaced:  # a space may come before what follows a mark there
        answer = [token for token, trained in zip(ids, mask, strict=True) if trained]
        assert f"two{spelled} red" in tokenizer.decode(answer)


@pytest.mark.parametrize("name", ["qwen-3", "deepseek"])
def test_an_answer_with_thoughts_is_trained_on_whole(name: str) -> None:
    tokenizer = make_tokenizer(FAMILIES[name])
    answer = "<think>\nthe cat\n</think>\n\ntwo red"
    ids, mask = encode_example(tokenizer, FIRST, answer)
    written = tokenizer.decode([token for token, trained in zip(ids, mask, strict=True) if trained])
    assert written == answer + (FAMILIES[name].stop or FAMILIES[name].eos)


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_refusal_of_the_template_says_what_to_do(name: str) -> None:
    tokenizer = make_tokenizer(FAMILIES[name])
    with pytest.raises(
        InputError, match=r"refuses the dialogue of roles system, user \(System role.*leave out such rows"
    ):
        prompt_ids(tokenizer, Prompt("p", (Message("system", "s"), *FIRST.messages)))


def test_a_broken_template_is_refused_and_not_a_traceback() -> None:
    tokenizer = make_tokenizer(FAMILIES["zephyr"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + 1 }}{% endfor %}"
    with pytest.raises(InputError, match=r"chat template: fails with TypeError.*correct chat_template\.jinja"):
        check_template(tokenizer)


def test_a_template_is_named_or_a_file(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(FAMILIES["zephyr"])
    assert "eos_token" in template_text("chatml", tokenizer)
    assert "'<|im_end|>'" in template_text("chatml", make_tokenizer(FAMILIES["qwen-2.5"]))
    (tmp_path / "own.jinja").write_text("own")
    assert template_text(str(tmp_path / "own.jinja"), tokenizer) == "own"
    with pytest.raises(InputError, match=r"'chatlm' is neither a file nor the name of a template.*chatml"):
        template_text("chatlm", tokenizer)
