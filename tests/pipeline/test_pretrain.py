"""The rows that a base model is trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import DataConfig, LoadedJob
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.pipeline.checks import check
from rayalign.pipeline.hashing import stage_hashes
from rayalign.pipeline.inputs import Inputs
from rayalign.pipeline.pretrain import encode_corpus
from rayalign.storage.records import write_jsonl
from rayalign.types import Candidate, Example, Prompt

Study = Callable[..., LoadedJob]


def test_a_control_token_of_a_document_stays_text() -> None:
    tokenizer = build_tokenizer()
    document = Example(Prompt("p", ()), (Candidate("<user>what"),))
    (row,) = encode_corpus(tokenizer, [document], context=96)
    assert tokenizer.convert_tokens_to_ids("<user>") not in row.token_ids


OWN = """\
name: own
data: {format: demonstrations, path: PATH}
stages:
  base: {kind: pretrain, vocabulary: 300}
"""


@pytest.fixture
def own(study: Study, tmp_path: Path) -> Callable[..., LoadedJob]:
    """A pretraining on rows of its own."""

    def load(*overrides: str) -> LoadedJob:
        write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "may I ?", "answer": "yes"}] * 3)
        return study(*overrides, text=OWN.replace("PATH", str(tmp_path / "rows.jsonl")))

    return load


def test_the_trained_tokenizer_has_the_template_that_the_stage_names(own: Study, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}")
    templates = {}
    for name in ("default", "alpaca", str(file)):
        loaded = own(f"stages.base.chat_template={name}")
        check(loaded)
        templates[name] = Inputs(loaded).tokenizer("stage:base").chat_template
    assert "### Instruction" in templates["alpaca"] and "### Instruction" not in templates["default"]
    assert templates[str(file)] == file.read_text()
    assert Inputs(own()).tokenizer("stage:base").chat_template == templates["default"]


def test_another_content_of_a_template_file_trains_again(own: Study, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    marks = set()
    for text in ("{{ messages }}", "{{ messages }}!"):
        file.write_text(text)
        marks.add(stage_hashes(own(f"stages.base.chat_template={file}").job)["base"])
    assert len(marks) == 2


def test_a_template_that_cannot_be_is_refused(own: Study, study: Study) -> None:
    with pytest.raises(InputError, match=r"stages\.base\.chat_template: .*alpaka.*alpaca"):
        check(own("stages.base.chat_template=alpaka"))
    with pytest.raises(InputError, match=r"stages\.base\.chat_template: the embedded world's tokenizer has a template"):
        check(study("stages.base.chat_template=alpaca"))


def test_the_embedded_documents_keep_the_control_tokens_that_they_are_written_with() -> None:
    tokenizer = build_tokenizer()
    documents = load_examples(DataConfig(limit=30), seed=0, use="corpus")
    rows = list(encode_corpus(tokenizer, documents, context=96, rendered=True))
    assert [tokenizer.decode(row.token_ids).replace(" ", "") for row in rows] == [
        document.candidates[0].text.replace(" ", "") for document in documents
    ]
    assert any(tokenizer.convert_tokens_to_ids("<user>") in row.token_ids for row in rows)
