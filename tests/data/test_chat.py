from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayalign.data.chat import (
    DEFAULT_TEMPLATE,
    check_template,
    cut_to_fit,
    decode_answer,
    encode_example,
    encode_prompt,
    load_tokenizer,
    stop_ids,
    train_tokenizer,
)
from rayalign.errors import InputError
from rayalign.types import Message, Prompt

TEXTS = ["the cat sat on the mat", "a dog ran, two by two", "Say hello, please. 1 2 3\n\nnaïve ☃"] * 3

LONG_TALK = Prompt(
    "p",
    (
        Message("system", "be kind"),
        Message("user", "the cat " * 20),
        Message("assistant", "the mat"),
        Message("user", "the dog"),
        Message("assistant", "it ran"),
        Message("user", "to the cat"),
    ),
)


@pytest.fixture
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 300)


def test_a_trained_tokenizer_passes_the_self_test_and_survives_saving(tokenizer: Any, tmp_path: Path) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    text = "naïve ☃\u2028 <cat>\n\n  sat"
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, load_tokenizer(str(tmp_path))):
        check_template(one)
        assert one.decode(one.encode(text)) == text


def test_training_a_tokenizer_is_deterministic_over_processes() -> None:
    code = f"""
import hashlib, json
from rayalign.data.chat import train_tokenizer
print(hashlib.sha256(train_tokenizer({TEXTS!r}, 300).backend_tokenizer.to_str().encode()).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = train_tokenizer(TEXTS, 300).backend_tokenizer.to_str()
    assert done.stdout.strip() == hashlib.sha256(here.encode()).hexdigest()


def test_only_the_last_answer_and_its_end_are_trained_on(tokenizer: Any) -> None:
    prompt = Prompt("p", (Message("user", "the cat"), Message("assistant", "sat"), Message("user", "the dog")))
    ids, mask = encode_example(tokenizer, prompt, "ran")
    trained = [i for i, m in zip(ids, mask, strict=True) if m]
    assert tokenizer.decode(trained) == "ran<|end|>"
    assert ids[: -len(trained)] == encode_prompt(tokenizer, prompt, context=1000, reserve=10)
    assert trained[-1] in stop_ids(tokenizer)
    assert decode_answer(tokenizer, trained) == "ran"


def test_an_overlong_dialogue_loses_its_oldest_turns(tokenizer: Any) -> None:
    whole = encode_prompt(tokenizer, LONG_TALK, context=1000, reserve=0)
    assert whole is not None
    assert encode_prompt(tokenizer, LONG_TALK, context=len(whole) + 5, reserve=5) == whole
    cut = cut_to_fit(tokenizer, LONG_TALK, len(whole) - 1)
    assert cut is not None
    assert cut.id == "p"
    assert cut.messages == (LONG_TALK.messages[0], *LONG_TALK.messages[3:])
    shorter = encode_prompt(tokenizer, LONG_TALK, context=len(whole) + 4, reserve=5)
    assert shorter == encode_prompt(tokenizer, cut, context=1000, reserve=0)
    assert encode_prompt(tokenizer, LONG_TALK, context=10, reserve=5) is None


def test_the_token_that_closes_a_turn_comes_first_among_the_stops(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = DEFAULT_TEMPLATE.replace("eos_token", "'<|turn|>'")
    assert stop_ids(tokenizer) == (tokenizer.convert_tokens_to_ids("<|turn|>"), tokenizer.eos_token_id)
    check_template(tokenizer)


def test_a_model_without_a_template_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InputError, match=r"chat_template\.jinja"):
        check_template(tokenizer)


FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' and loop.last %}(thinking) {% endif %}"
    "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GLUED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SINGLE_TURN = "{% if messages | length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + DEFAULT_TEMPLATE


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (FORGETFUL, "earlier turns change"),
        (ENDLESS, "closed by"),
        (GLUED, "tokenises otherwise"),
        (SINGLE_TURN, "one turn only"),
        (DEFAULT_TEMPLATE.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}?"), "as it is"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_refused(tokenizer: Any, template: str, said: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=said):
        check_template(tokenizer)
