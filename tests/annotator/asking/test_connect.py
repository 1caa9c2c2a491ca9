"""What an annotator receives of a pair, and what is written of its annotation."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from rayalign.annotator.asking.api import Annotation
from rayalign.annotator.asking.client import item_of
from rayalign.annotator.asking.connect import LocalAnnotator, connect, public
from rayalign.annotator.service_file import load_service
from rayalign.config import load_registry
from rayalign.data.preferences import under_profile
from rayalign.types import Message, Prompt
from tests.annotator.served import serving
from tests.annotator.stub_endpoint import Stub

ROW = {"instruction": "q", "output_1": "a", "output_2": "b"}


@pytest.mark.parametrize("switched", [True, False])
def test_a_raw_completion_comes_with_the_order_that_it_speaks_of(switched: bool) -> None:
    annotation = Annotation(index=0, annotator="judge", preference=2.0, raw_completion="Output (a)", switched=switched)
    row = public(ROW, annotation)
    assert (row["preference"], row["preference_raw_completion"]) == (2.0, "Output (a)")
    assert row["is_switched_outputs"] is switched


def test_without_a_raw_completion_no_order_is_claimed() -> None:
    assert "is_switched_outputs" not in public(ROW, Annotation(index=0, annotator="judge", preference=2.0))


def concise_prompt() -> tuple[Prompt, str]:
    """A prompt under one preference, and the criterion of that preference."""
    registry = load_registry()
    plain = Prompt("p", (Message("user", "why is the sky blue ?"),))
    return under_profile(plain, registry.profile("P2A"), registry), registry["P2A"].criterion


def test_an_item_carries_the_criterion_of_its_prompt() -> None:
    prompt, criterion = concise_prompt()
    item = item_of(prompt, "a", "b")
    assert item.meta is not None and item.meta["criterion"] == criterion
    assert (item.messages, item.output_1, item.output_2) == (prompt.messages, "a", "b")


def test_a_language_model_receives_the_criterion_of_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_KEY", "some-key")
    prompt, criterion = concise_prompt()
    file = tmp_path / "pool.yaml"
    with Stub() as stub:
        judge = f"{{kind: llm, model: m, template: criterion, base_url: '{stub.url}', key_variable: STUB_KEY}}"
        file.write_text(f"cache: sqlite:///{tmp_path / 'v.db'}\nannotators: {{m: {{judge: {judge}}}}}\n")
        annotator = LocalAnnotator(file, "m")
        assert annotator.compare([(prompt, "short", "much longer")], seed=0) == [2.0]
        annotator.close()
    (body,) = stub.bodies
    assert f"Decide {criterion}." in body["messages"][-1]["content"]


def pairs_to_flip(count: int = 400) -> list[tuple[Prompt, str, str]]:
    prompts = [Prompt(f"p{number}", (Message("user", f"question {number}"),)) for number in range(count)]
    return [(prompt, "short", "much longer") for prompt in prompts]


@pytest.mark.parametrize("over_http", [False, True])
def test_so_many_verdicts_of_a_language_model_are_flipped_by_the_seed(
    over_http: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_KEY", "some-key")
    file = tmp_path / "pool.yaml"
    with Stub() as stub:
        judge = f"{{kind: llm, model: m, base_url: '{stub.url}', key_variable: STUB_KEY}}"
        file.write_text(f"cache: sqlite:///{tmp_path / 'v.db'}\nannotators: {{m: {{judge: {judge}}}}}\n")
        where = serving(load_service(file)) if over_http else nullcontext(str(file))
        with where as address, closing(connect(address)) as annotator:
            flipped = annotator.compare(pairs_to_flip(), seed=0, flip=0.25)
            asked = len(stub.bodies)
            again = annotator.compare(pairs_to_flip(), seed=0, flip=0.25)
            other = annotator.compare(pairs_to_flip(), seed=1, flip=0.25)
            plain = annotator.compare(pairs_to_flip(), seed=0)
    assert plain == [2.0] * 400
    assert flipped.count(1.0) == pytest.approx(100, abs=25)
    assert asked == pytest.approx(200, abs=30)  # labels drawn as noise cost nothing, whichever way they fall
    assert again == flipped != other
