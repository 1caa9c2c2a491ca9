from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from rayalign.data.chat import (
    check_template,
    check_turns,
    cut_to_fit,
    decode_answer,
    encode_continuation,
    encode_example,
    encode_prompt,
    encode_turn,
    load_tokenizer,
    stop_ids,
    train_tokenizer,
)
from rayalign.data.templates import DEFAULT_TEMPLATE
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


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def spaced() -> Any:
    """As SentencePiece does it: a space is put before a text, so that "cat" alone is the piece "▁cat"."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Metaspace()
    alphabet = sorted(set("".join([*TEXTS, MISTRAL, ZEPHYR, "it is, user. one two red blue ten"])))
    special_tokens = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*TEXTS, "].].].].].]."] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("template", [MISTRAL, ZEPHYR, DEFAULT_TEMPLATE])
def test_an_answer_is_tokenised_with_its_dialogue(spaced: Any, template: str) -> None:
    spaced.chat_template = template
    check_template(spaced)
    prompt = Prompt("p", (Message("user", "the cat"), Message("assistant", "sat"), Message("user", "the dog")))
    ids, mask = encode_example(spaced, prompt, "cat")
    turns = [{"role": m.role, "content": m.content} for m in (*prompt.messages, Message("assistant", "cat"))]
    whole = spaced.apply_chat_template(turns, tokenize=False)
    together = spaced.encode(whole, add_special_tokens=False)
    assert list(ids) == together[: len(ids)]
    answer = [i for i, m in zip(ids, mask, strict=True) if m]
    assert ids[: -len(answer)] == encode_prompt(spaced, prompt, context=1000, reserve=10)
    assert answer[-1] == spaced.eos_token_id
    assert answer[:-1] != spaced.encode("cat", add_special_tokens=False)
    assert decode_answer(spaced, answer) == "cat"


def test_a_piece_across_the_boundary_leaves_the_prompt_as_it_is(spaced: Any) -> None:
    """ "]." is one piece, but a policy that has read "]" can only write a "." of its own, without a space before it."""
    assert spaced.tokenize("cat ].")[-1] == "]."
    head, tail = encode_continuation(spaced, "cat ]", ".")
    assert head == spaced.encode("cat ]", add_special_tokens=False)
    assert spaced.convert_ids_to_tokens(tail) == ["."]


def test_a_token_without_an_embedding_is_named(tokenizer: Any, tmp_path: Path) -> None:
    """A padding token that was added without resizing the model; a folder without a model holds nothing against it."""
    from transformers import LlamaConfig

    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "[PAD]"
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    load_tokenizer(str(tmp_path))
    LlamaConfig(vocab_size=len(tokenizer) - 1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"'\[PAD\]' with id {len(tokenizer) - 1}, but the model has embeddings for"):
        load_tokenizer(str(tmp_path))


def test_a_turn_is_what_the_template_appends_to_any_closed_answer(tokenizer: Any) -> None:
    check_turns(tokenizer)
    prompt = Prompt("p", (Message("user", "the cat"),))
    written, _ = encode_example(tokenizer, prompt, "sat, naïve, on the mat")
    turn = encode_turn(tokenizer, [Message("user", "two by two")])
    assert tokenizer.decode(turn) == "\n<|user|>\ntwo by two\n<|assistant|>\n"
    dialogue = (*prompt.messages, Message("assistant", "sat, naïve, on the mat"), Message("user", "two by two"))
    assert (*written, *turn) == encode_prompt(tokenizer, Prompt("p", dialogue), context=1000, reserve=0)


NUMBERED = DEFAULT_TEMPLATE.replace("{{ message.content + '\n' }}", "{{ loop.index ~ message.content + '\n' }}")


@pytest.mark.parametrize(
    ("template", "said"), [(NUMBERED, "does not only append when a turn follows another"), (FORGETFUL, "earlier turns")]
)
def test_a_template_whose_turns_depend_on_the_dialogue_is_refused_for_several_turns(
    tokenizer: Any, template: str, said: str
) -> None:
    tokenizer.chat_template = template
    check_template(tokenizer)
    with pytest.raises(InputError, match=said):
        check_turns(tokenizer)


def test_a_folder_that_names_the_plain_class_needs_no_automatic_one(tmp_path: Path) -> None:
    """The automatic classes import the code of all models."""
    train_tokenizer(["a b c"], 300).save_pretrained(tmp_path)
    code = (
        "import sys; from rayalign.data.chat import load_tokenizer; "
        f"tokenizer = load_tokenizer({str(tmp_path)!r}); "
        "print(len(tokenizer), 'transformers.models.auto.tokenization_auto' in sys.modules)"
    )
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert lines.split() == [str(len(AutoTokenizer.from_pretrained(tmp_path))), "False"]
