from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data.blend import in_phase, interleaved
from rayalign.data.readers import Use, check, load_examples
from rayalign.errors import InputError
from rayalign.types import Example, Message, Prompt


def example(text: str) -> Example:
    return Example(Prompt(text, (Message("user", text),)), ())


def texts(examples: list[Example]) -> list[str]:
    return [each.prompt.messages[0].content for each in examples]


def test_sources_come_by_their_shares_until_all_are_exhausted() -> None:
    a, b = (iter([example(f"{name}{i}") for i in range(4)]) for name in "ab")
    assert texts(list(interleaved([a, b], [2.0, 1.0]))) == ["a0", "a1", "b0", "a2", "a3", "b1", "b2", "b3"]


@pytest.mark.parametrize(("phase", "share"), [(1, 0.2), (2, 0.4), (3, 0.4)])
def test_phases_share_the_prompts_by_their_proportions(phase: int, share: float) -> None:
    prompts = [example(f"prompt {i}").prompt for i in range(5000)]
    inside = sum(in_phase(prompt, (2.0, 4.0, 4.0), phase) for prompt in prompts)
    assert inside / 5000 == pytest.approx(share, abs=0.025)


def test_a_prompt_is_in_one_phase_with_all_that_begins_as_it_does() -> None:
    for i in range(100):
        short = Prompt("a", (Message("user", f"hello {i}"),))
        long = Prompt("b", (*short.messages, Message("assistant", "yes?"), Message("user", "tell me")))
        phases = [phase for phase in (1, 2, 3) if in_phase(short, (1.0, 1.0, 1.0), phase)]
        assert phases == [phase for phase in (1, 2, 3) if in_phase(long, (1.0, 1.0, 1.0), phase)]
        assert len(phases) == 1


@pytest.fixture
def blend(tmp_path: Path) -> dict[str, object]:
    """Forty prompts in one file, ten in another of another format; both have prompt 0."""
    own = [{"prompt": f"prompt {i}", "answer": "yes"} for i in range(40)]
    (tmp_path / "demonstrations.jsonl").write_text("\n".join(map(json.dumps, own)))
    pairs = [{"prompt": f"prompt {100 * i}", "chosen": "good", "rejected": "bad"} for i in range(10)]
    (tmp_path / "comparisons.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return {
        "blend": [
            {"format": "demonstrations", "path": str(tmp_path / "demonstrations.jsonl"), "share": 3},
            {"format": "comparisons", "path": str(tmp_path / "comparisons.jsonl")},
        ]
    }


@pytest.mark.parametrize(("use", "count"), [("demonstrations", 50), ("prompts", 49)])
def test_data_sets_of_several_formats_are_one(blend: dict[str, object], use: Use, count: int) -> None:
    data = DataConfig.model_validate(blend)
    check(data, use=use)
    examples = load_examples(data, seed=0, use=use)
    assert len(examples) == count
    first = texts(load_examples(data.model_copy(update={"limit": 8}), seed=0, use=use))
    assert sum(text.endswith("00") for text in first) >= 1


def test_rows_of_a_blend_come_by_the_shares_of_its_sources(blend: dict[str, object]) -> None:
    data = DataConfig.model_validate({**blend, "limit": 8})
    numbers = [int(text.removeprefix("prompt ")) for text in texts(load_examples(data, seed=0, use="demonstrations"))]
    assert numbers == [0, 1, 2, 0, 3, 4, 5, 100]


def test_each_source_has_a_split_columns_and_a_limit_of_its_own(blend: dict[str, object], tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    for split in ("train", "test"):
        rows = [{"words": f"{split} {i}", "answer": "yes"} for i in range(5)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"format": "demonstrations", "path": str(folder), "split": "test", "limit": 2}
    source["columns"] = {"prompt": "words"}
    data = DataConfig.model_validate({"blend": [*blend["blend"], source]})  # type: ignore[misc]
    read = texts(load_examples(data, seed=0, use="demonstrations"))
    assert [text for text in read if not text.startswith("prompt")] == ["test 0", "test 1"]
    assert len(read) == 52


def test_the_seed_reaches_each_source() -> None:
    alone, blended = DataConfig(limit=3), DataConfig.model_validate({"blend": [{"format": "paddock"}], "limit": 3})
    drawn = [texts(load_examples(alone, seed=seed, use="prompts")) for seed in (0, 7)]
    assert drawn[0] != drawn[1]
    assert [texts(load_examples(blended, seed=seed, use="prompts")) for seed in (0, 7)] == drawn


@pytest.mark.parametrize("blended", [True, False])
def test_a_limit_counts_the_rows_of_the_phase(blend: dict[str, object], blended: bool) -> None:
    own: dict[str, object] = blend if blended else blend["blend"][0]  # type: ignore[index]
    settings = {key: value for key, value in own.items() if key != "share"} | {"phases": [2, 4, 4], "phase": 3}
    whole = texts(load_examples(DataConfig.model_validate(settings), seed=0, use="prompts"))
    assert len(whole) > 6
    few = DataConfig.model_validate({**settings, "limit": 6})
    assert texts(load_examples(few, seed=0, use="prompts")) == whole[:6]


def test_a_limit_of_the_embedded_world_counts_the_rows_of_the_phase_too() -> None:
    data = DataConfig(phases=(2, 4, 4), phase=1, limit=6)
    assert len(load_examples(data, seed=0, use="prompts")) == 6


def test_phases_divide_all_rows_of_a_blend(blend: dict[str, object]) -> None:
    parts = []
    for phase in (1, 2, 3):
        data = DataConfig.model_validate({**blend, "phases": [2, 4, 4], "phase": phase})
        parts.append(texts(load_examples(data, seed=0, use="prompts")))
    whole = texts(load_examples(DataConfig.model_validate(blend), seed=0, use="prompts"))
    assert sorted(sum(parts, [])) == sorted(whole)
    assert all(parts)


def test_one_data_set_of_a_blend_that_is_wrong_is_refused(blend: dict[str, object], tmp_path: Path) -> None:
    missing = {"format": "hh", "path": str(tmp_path / "nothing.jsonl")}
    data = DataConfig.model_validate({"blend": [*blend["blend"], missing]})  # type: ignore[misc]
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        check(data, use="demonstrations")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": [2, 4, 4]}, "belong together"),
        ({"phase": 1}, "belong together"),
        ({"phases": [2, 4], "phase": 3}, "phase 3 is not one of 2 phases"),
    ],
)
def test_a_phase_is_one_of_the_phases(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(DataConfig.model_validate(changes), use="prompts")
