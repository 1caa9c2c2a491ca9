"""The rows that a base model is trained on."""

from __future__ import annotations

from rayalign.config import DataConfig
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.readers import load_examples
from rayalign.pipeline.pretrain import encode_corpus
from rayalign.types import Candidate, Example, Prompt


def test_a_control_token_of_a_document_stays_text() -> None:
    tokenizer = build_tokenizer()
    document = Example(Prompt("p", ()), (Candidate("<user>what"),))
    (row,) = encode_corpus(tokenizer, [document], context=96)
    assert tokenizer.convert_tokens_to_ids("<user>") not in row.token_ids


def test_the_embedded_documents_keep_the_control_tokens_that_they_are_written_with() -> None:
    tokenizer = build_tokenizer()
    documents = load_examples(DataConfig(limit=30), seed=0, use="corpus")
    rows = list(encode_corpus(tokenizer, documents, context=96, rendered=True))
    assert [tokenizer.decode(row.token_ids).replace(" ", "") for row in rows] == [
        document.candidates[0].text.replace(" ", "") for document in documents
    ]
    assert any(tokenizer.convert_tokens_to_ids("<user>") in row.token_ids for row in rows)
