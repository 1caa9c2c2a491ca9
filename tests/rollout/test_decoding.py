from __future__ import annotations

import logging

import pytest

from rayalign.data.chat import load_tokenizer
from rayalign.rollout.base import Finished
from rayalign.rollout.decoding import Decoder


def finished(tokens: tuple[int, ...]) -> Finished:
    return Finished("a/0", tokens, (-0.5,) * len(tokens), ((0, 3),), "stop")


def test_texts_are_those_of_the_tokenizer_and_all_else_stays(model: str) -> None:
    tokenizer = load_tokenizer(model)
    tokens = tuple(tokenizer("the cat", add_special_tokens=False).input_ids)
    decoder = Decoder()
    decoder.expect(model)
    decoder.load()
    written, failed = decoder.with_texts([finished((*tokens, tokenizer.eos_token_id)), Finished("b", failure="no")])
    assert written.text == tokenizer.decode(tokens).strip() != ""
    assert (written.key, written.logprobs, written.version_runs) == ("a/0", (-0.5,) * (len(tokens) + 1), ((0, 3),))
    assert failed == Finished("b", failure="no")


def text_of(decoder: Decoder) -> str | None:
    return decoder.with_texts([finished((1,))])[0].text


def test_without_a_tokenizer_there_is_no_text(model: str, caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    assert text_of(decoder) is None
    decoder.load()
    assert text_of(decoder) is None
    decoder.expect("/no/such/folder")
    with caplog.at_level(logging.WARNING):
        decoder.load()
        decoder.load()
    assert text_of(decoder) is None
    assert caplog.text.count("the coordinator decodes this engine's answers: model /no/such/folder") == 1


def test_no_text_is_that_of_the_tokenizer_before(model: str) -> None:
    decoder = Decoder()
    decoder.expect(model)
    assert text_of(decoder) is None, "it is not loaded yet"
    decoder.load()
    decoder.expect(model)
    assert text_of(decoder) is not None, "the same model again"
    decoder.expect("another")
    assert text_of(decoder) is None
    decoder.expect(model)
    decoder.load()
    decoder.expect(None)
    assert text_of(decoder) is None
