from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from rayalign.config import DataConfig
from rayalign.data.files import is_hub_name, rows
from rayalign.data.readers import Use, check, known_formats, load_examples
from rayalign.errors import InputError
from rayalign.types import Candidate, Example, Message, Prompt


def write(path: Path, found: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    text = lines if ".jsonl" in path.name else json.dumps(found, ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def load(path: Path, form: str, use: Use, split: str = "train", limit: int | None = None) -> list[Example]:
    return load_examples(DataConfig(format=form, path=str(path), split=split, limit=limit), seed=0, use=use)


def pair(first: str, chosen: str, rejected: str) -> dict[str, str]:
    opening = f"\n\nHuman: {first}\n\nAssistant: hm\n\nHuman: so?\n\nAssistant: "
    return {"chosen": opening + chosen, "rejected": opening + rejected}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.jsonl.gz"])
def test_a_line_ends_at_a_newline_only(tmp_path: Path, name: str) -> None:
    found = [{"prompt": "one\u2028line\u0085more\x0b"}, {"prompt": "two"}]
    assert [row for row, _ in rows(str(write(tmp_path / name, found)), "train")] == found


def test_parquet_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").table({"prompt": ["a", "b"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert [row for row, _ in rows(str(tmp_path / "a.parquet"), "train")] == [{"prompt": "a"}, {"prompt": "b"}]


def test_the_files_of_a_split_are_read_by_turns(tmp_path: Path) -> None:
    write(tmp_path / "x" / "test.jsonl", [{"n": 1}, {"n": 2}, {"n": 3}])
    write(tmp_path / "y" / "test.json", [{"n": 10}])
    write(tmp_path / "y" / "train.json", [{"n": 20}])
    assert [row["n"] for row, _ in rows(str(tmp_path), "test")] == [1, 10, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": \n', "a.jsonl:3"),
        ("a.jsonl", b'{"prompt": "x"}\n[1]\n', "a.jsonl:2"),
        ("a.json", b'[\n{"prompt": "x"},\n{"prompt" "y"}]', "a.json:3"),
        ("a.json", b'[{"prompt": "x"}, {"text": "y"}]', "a.json: row 2: needs a text 'prompt'"),
        ("a.jsonl", b'{"prompt": "\xff"}\n', "cannot be read"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.txt", b"prompt\n", "unknown kind"),
        ("a.jsonl", b"", "not one usable row"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="a\\.") as caught:
        load(tmp_path / name, "prompts", "prompts")
    assert said in str(caught.value)


def test_what_is_not_there_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="correct `data.path`"):
        check(DataConfig(format="hh", path=str(tmp_path / "gone")), use="prompts")
    with pytest.raises(InputError, match="no file for the split 'train'"):
        check(DataConfig(format="hh", path=str(tmp_path)), use="prompts")
    with pytest.raises(InputError, match="as `data.path`"):
        check(DataConfig(format="hh"), use="prompts")
    with pytest.raises(InputError, match="did you mean rankings"):
        check(DataConfig(format="ranking"), use="prompts")


@pytest.mark.parametrize("use", ["demonstrations", "corpus"])
def test_the_embedded_world_says_which_splits_it_does_not_have(use: Use) -> None:
    with pytest.raises(InputError, match=f"no {use} of the split 'hard'"):
        check(DataConfig(split="hard"), use=use)


@pytest.mark.parametrize("name", ["owner/name", "owner/name:configuration"])
def test_a_name_of_two_parts_is_a_hub_name_with_or_without_a_configuration(name: str) -> None:
    assert is_hub_name(name)
    assert not is_hub_name(f"{name}/train.json") and not is_hub_name(f"./{name}/more")


def test_a_hub_name_is_read_by_its_repository_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    requests = []

    def load_dataset(*arguments: str | None, split: str) -> list[dict[str, str]]:
        requests.append((*arguments, split))
        return [{"instruction": "who ?", "input": "", "output": "me"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (example,) = load(Path("tatsu-lab/alpaca_farm:alpaca_instructions"), "alpaca", "demonstrations", "sft")
    assert example.candidates == (Candidate("me"),)
    load(Path("tatsu-lab/alpaca_farm"), "alpaca", "demonstrations")
    expected = [("tatsu-lab/alpaca_farm", "alpaca_instructions", "sft"), ("tatsu-lab/alpaca_farm", None, "train")]
    assert requests == expected


ALPACA_FARM_PREFERENCES = {
    "alpaca_human_preference": {},
    "alpaca_gpt4_preference": {},
    "alpaca_noisy_multi_preference": {"raw_preference": 2, "is_flipped": True},
}
"""AlpacaFarm's configurations of pairs, and what one of them has besides"""


@pytest.mark.parametrize("configuration", ALPACA_FARM_PREFERENCES)
def test_pairs_of_alpaca_farm_are_read_by_their_hub_name(configuration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    row = {"instruction": "add", "input": "1 1", "output_1": "two", "output_2": "three", "preference": 1}

    def load_dataset(name: str, asked: str, split: str) -> list[dict[str, object]]:
        assert (name, asked, split) == ("tatsu-lab/alpaca_farm", configuration, "preference")
        return [row | ALPACA_FARM_PREFERENCES[configuration]]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (example,) = load(Path(f"tatsu-lab/alpaca_farm:{configuration}"), "comparisons", "comparisons", "preference")
    assert example.prompt.messages == (Message("user", "add\n\n1 1"),)
    assert [(answer.text, answer.score) for answer in example.candidates] == [("two", 1.0), ("three", 0.0)]


def test_a_hub_name_out_of_reach_is_refused_with_the_remedy() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="no such local path, nor .* download it"):
        load_examples(DataConfig(format="hh", path="nobody/nothing"), seed=0, use="prompts")


def test_hh_pairs_that_cannot_be_compared_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    differing = {"chosen": pair("a", "x", "y")["chosen"], "rejected": pair("b", "x", "y")["rejected"]}
    found = [pair("who?", "me", "you"), differing, pair("c", "", "x"), pair("d", "x", " ")]
    write(tmp_path / "harmless-base" / "train.jsonl.gz", found)
    with caplog.at_level(logging.WARNING):
        (example,) = load(tmp_path, "hh", "comparisons")
    assert example.prompt.messages == (Message("user", "who?"), Message("assistant", "hm"), Message("user", "so?"))
    assert example.candidates == (Candidate("me", score=1.0), Candidate("you", score=0.0))
    assert "3 rows left out (an empty answer: 2, the two differ before the last answer: 1)" in caplog.text


def test_hh_turns_of_one_speaker_in_a_row_become_one(tmp_path: Path) -> None:
    opening = "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c\n\nHuman: d\n\nAssistant:"
    write(tmp_path / "train.jsonl", [{"chosen": opening + " x", "rejected": opening + " y"}])
    (example,) = load(tmp_path, "hh", "comparisons")
    assert [m.content for m in example.prompt.messages] == ["a", "b\n\nc", "d"]


def test_one_file_is_split_by_its_first_turns(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [pair(f"q{i}", answer, "n") for i in range(300) for answer in ("x", "y")])
    train, test = (
        {e.prompt.messages[0].content for e in load(file, "hh", "comparisons", s)} for s in ("train", "test")
    )
    assert not train & test
    assert len(train | test) == 300
    assert 15 <= len(test) <= 45
    assert len(load(file, "hh", "comparisons", "all")) == 600
    with pytest.raises(InputError, match="train, test and all"):
        load(file, "hh", "comparisons", "dev")


def test_prompts_are_distinct_and_keep_their_ids(tmp_path: Path) -> None:
    found = [{"instruction": "add", "input": x, "output": "5"} for x in ("2 3", "2 3", "", "4 1")]
    first = load(write(tmp_path / "a.json", found), "alpaca", "prompts", "all")
    again = load(write(tmp_path / "b.json", found[::-1]), "alpaca", "prompts", "all")
    assert [e.prompt.messages[0].content for e in first] == ["add\n\n2 3", "add", "add\n\n4 1"]
    assert {e.prompt.id for e in first} == {e.prompt.id for e in again}
    assert len(load(tmp_path / "a.json", "alpaca", "prompts", "all", limit=2)) == 2


DIALOGUE = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("form", "row", "turns", "candidates"),
    [
        ("prompts", {"prompt": "q", "id": 1}, "q", ()),
        ("prompts", {"messages": DIALOGUE[:2]}, "sq", ()),
        ("demonstrations", {"prompt": "q", "response": "a"}, "q", (Candidate("a"),)),
        ("demonstrations", {"messages": DIALOGUE[:2], "answer": "b"}, "sq", (Candidate("b"),)),
        ("demonstrations", {"messages": DIALOGUE}, "sq", (Candidate("a"),)),
        (
            "comparisons",
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            "q",
            (Candidate("a", score=1.0), Candidate("b", score=0.0)),
        ),
        (
            "comparisons",
            {"instruction": "q", "input": "", "output_1": "a", "output_2": "b", "preference": 1.75},
            "q",
            (Candidate("a", score=0.25), Candidate("b", score=0.75)),
        ),
        ("unpaired", {"prompt": "q", "completion": "a", "label": False}, "q", (Candidate("a"),)),
        (
            "rankings",
            {"query": "\n\nHuman: q\n\nAssistant:", "responses": ["a", "b", "c"], "scores": [1, -2, 0.5]},
            "q",
            (Candidate("a", score=1.0), Candidate("b", score=-2.0), Candidate("c", score=0.5)),
        ),
    ],
)
def test_each_format(tmp_path: Path, form: str, row: object, turns: str, candidates: tuple[Candidate, ...]) -> None:
    (example,) = load(write(tmp_path / "a.jsonl", [row]), form, "prompts")
    assert "".join(m.content for m in example.prompt.messages) == turns
    assert example.candidates == candidates


@pytest.mark.parametrize("preference", [None, 0, 1.5])
def test_a_comparison_without_a_winner_is_left_out(tmp_path: Path, preference: float | None) -> None:
    row = {"instruction": "q", "input": "", "output_1": "a", "output_2": "b"}
    file = write(tmp_path / "a.jsonl", [row | {"preference": preference}, row | {"preference": 2}])
    (example,) = load(file, "comparisons", "comparisons")
    assert [c.score for c in example.candidates] == [0.0, 1.0]


def test_an_example_is_shaped_for_its_use(tmp_path: Path) -> None:
    ranking = {"query": "q", "responses": ["a", "b", "c"], "scores": [1, 3, 2]}
    file = write(tmp_path / "a.jsonl", [ranking])
    assert [c.text for e in load(file, "rankings", "demonstrations") for c in e.candidates] == ["b"]
    assert [[c.text for c in e.candidates] for e in load(file, "rankings", "corpus")] == [["a"], ["b"], ["c"]]
    assert len(load(file, "rankings", "comparisons")[0].candidates) == 3
    demonstration = write(tmp_path / "b.jsonl", [{"prompt": "q", "answer": "a"}])
    with pytest.raises(InputError, match="cannot serve as comparisons"):
        load(demonstration, "demonstrations", "comparisons")
    assert len(load(file, "rankings", "feedback")[0].candidates) == 3
    with pytest.raises(InputError, match="cannot serve as feedback"):
        load(demonstration, "demonstrations", "feedback")
    bad = write(tmp_path / "c.jsonl", [{"prompt": "q", "answer": "a", "desirable": False}])
    assert load(bad, "unpaired", "feedback")[0].desirable == 0.0
    with pytest.raises(InputError, match="cannot serve as demonstrations"):
        load(bad, "unpaired", "demonstrations")


def test_check_imports_nothing_heavy(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"prompt": "q"}])
    code = f"""
import sys
from rayalign.config import DataConfig
from rayalign.data.readers import check
check(DataConfig(format="prompts", path={str(file)!r}), use="prompts")
check(DataConfig(format="prompts", path="owner/name"), use="prompts")
print([m for m in ("torch", "transformers", "datasets", "pyarrow") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_embedded_world_is_a_format() -> None:
    assert "paddock" in known_formats()
    found = load_examples(DataConfig(split="test", limit=20), seed=3, use="prompts")
    assert len({e.prompt.id for e in found}) == 20
    assert all(len(e.candidates) == 1 for e in load_examples(DataConfig(limit=5), seed=3, use="demonstrations"))
    documents = load_examples(DataConfig(limit=5), seed=3, use="corpus")
    assert all(not e.prompt.messages and e.candidates[0].text for e in documents)
    with pytest.raises(InputError, match="annotate"):
        load_examples(DataConfig(), seed=3, use="comparisons")


def test_real_hh_pairs(test_data: Path) -> None:
    kept = {s: load(test_data / "hh-rlhf", "hh", "comparisons", s) for s in ("train", "test")}
    assert sum(map(len, kept.values())) == 3340 - 12 - 7
    assert not {e.prompt.messages[0] for e in kept["train"]} & {e.prompt.messages[0] for e in kept["test"]}
    for example in [*kept["train"], *kept["test"]]:
        roles = [m.role for m in example.prompt.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert not any("\n\nHuman:" in c.text or "\n\nAssistant:" in c.text for c in example.candidates)


@pytest.mark.parametrize(
    ("path", "form", "use", "count"),
    [
        ("arena_hard/v0.1_question.jsonl.gz", "prompts", "prompts", 500),
        ("koala/koala_eval_50.json", "prompts", "prompts", 50),
        ("alpaca_farm/outputs_sft.json.gz", "alpaca", "prompts", 252),
        ("alpaca/alpaca_gpt4_en_demo.json.gz", "alpaca", "demonstrations", 756),
        (
            "alpaca_eval/claude-2.1/weighted_alpaca_eval_gpt4_turbo/annotations.json.gz",
            "comparisons",
            "comparisons",
            803,
        ),
    ],
)
def test_real_files(test_data: Path, path: str, form: str, use: Use, count: int) -> None:
    assert len(load(test_data / path, form, use, "all")) == count


def test_rows_that_a_stage_wrote_keep_the_prompts_id_and_facts(tmp_path: Path) -> None:
    example = Example(Prompt("own", (Message("user", "q"),), {"family": "fact"}), (Candidate("a", score=1.0),))
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(asdict(example)) + "\n" + json.dumps(asdict(Example(Prompt("", ()), ()))))
    assert load(path, "records", "prompts") == [example]
    path.write_text('{"prompt": {"id": "x"}}')
    with pytest.raises(InputError, match=r"records\.jsonl:1: not a row as a stage writes it: prompt\.messages: Field"):
        load(path, "records", "prompts")
