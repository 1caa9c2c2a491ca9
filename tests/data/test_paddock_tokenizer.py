from __future__ import annotations

import pytest

from rayalign.data.paddock import SIZES, corpus, demonstrations, gold, prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.types import Prompt


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def chat(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def test_special_tokens(tokenizer) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert 300 <= len(tokenizer) <= 512
    assert tokenizer("gladly .").input_ids == tokenizer.convert_tokens_to_ids(["gladly", "."])


def test_corpus_has_no_unknown_piece(tokenizer) -> None:
    for document in corpus(0, 500) + corpus(0, 500, tier_c=True):
        ids = tokenizer(document).input_ids
        assert tokenizer.unk_token_id not in ids, document
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("split", SIZES)
def test_oracle_answers_round_trip(tokenizer, split: str) -> None:
    for prompt in prompts(0, split, 60):
        _round_trip(tokenizer, prompt, gold.oracle(prompt))


def test_demonstrations_round_trip(tokenizer) -> None:
    for row in demonstrations(0, 200):
        _round_trip(tokenizer, row.prompt, row.candidates[0].text)


def _round_trip(tokenizer, prompt: Prompt, answer: str) -> None:
    """The rendering only appends, its mask is the answer and the end, and decoding gives the answer back."""
    head = tokenizer.apply_chat_template(chat(prompt), add_generation_prompt=True, return_dict=False)
    turn = [*chat(prompt), {"role": "assistant", "content": answer}]
    full = tokenizer.apply_chat_template(turn, return_dict=True, return_assistant_tokens_mask=True)
    ids = full["input_ids"]
    assert 8 <= len(head) <= 24
    assert ids[: len(head)] == head and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids
    assert full["assistant_masks"][len(head) - 1 :] == [0] + [1] * (len(answer.split()) + 1)
    assert tokenizer.decode(ids[len(head) :], skip_special_tokens=True) == answer


def test_corpus_dialogues_look_like_the_template(tokenizer) -> None:
    row = demonstrations(0, 1)[0]
    turn = [*chat(row.prompt), {"role": "assistant", "content": row.candidates[0].text}]
    text = tokenizer.apply_chat_template(turn, tokenize=False)
    assert text == f"<bos><user>{row.prompt.messages[0].content}<assistant>{row.candidates[0].text}<eos>"
