from __future__ import annotations

from pathlib import Path

from rayalign.storage.records import write_jsonl
from rayalign.storage.report_answers import answers_section, samples_section

TURNS = [{"role": "assistant", "content": "of whom ?"}, {"role": "user", "content": "of tom ."}]


def test_dialogues_are_shown_whole_and_empty_baselines_not_at_all(tmp_path: Path) -> None:
    row = {"prompt_id": "p", "prompt": "user: hi\n\nassistant: hello\n\nuser: what is it ?", "value": 0.5}
    rows = [
        {**row, "model": "ppo", "answer": "red", "turns": TURNS},
        {**row, "model": "silent", "answer": ""},
        {**row, "model": "empty", "answer": ""},
    ]
    write_jsonl(tmp_path / "records.jsonl", rows)
    job = {"stages": {"test": {"baselines": ["empty"]}}}
    page = answers_section({"test": tmp_path}, job)
    assert "user: hi\n\nassistant: hello\n\nuser: what is it ?" in page
    assert "assistant: of whom ?\n\nuser: of tom .\n\nassistant: red" in page
    assert page.count('class="answer"') == 2 and "(empty answer)" in page


def test_samples_show_the_turns_between(tmp_path: Path) -> None:
    row = {"prompt": "what is it ?", "score": None}
    rows = [{**row, "iteration": 0, "answer": "blue"}, {**row, "iteration": 4, "answer": "red", "turns": TURNS}]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    page = samples_section({"ppo": tmp_path})
    assert page.index("blue") < page.index("assistant: of whom ?\n\nuser: of tom .\n\nassistant: red")
