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
    decoder.use(model)
    written, failed = decoder.with_texts([finished((*tokens, tokenizer.eos_token_id)), Finished("b", failure="no")])
    assert written.text == tokenizer.decode(tokens).strip() != ""
    assert (written.key, written.logprobs, written.version_runs) == ("a/0", (-0.5,) * (len(tokens) + 1), ((0, 3),))
    assert failed == Finished("b", failure="no")


def test_without_a_tokenizer_there_is_no_text(model: str, caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    assert decoder.with_texts([finished((1,))])[0].text is None
    decoder.use(model)
    assert decoder.with_texts([finished((1,))])[0].text is not None
    with caplog.at_level(logging.WARNING):
        decoder.use("/no/such/folder")
    assert decoder.with_texts([finished((1,))])[0].text is None
    assert "the coordinator decodes: model /no/such/folder" in caplog.text
    decoder.use(None)
    assert decoder.with_texts([finished((1,))])[0].text is None
