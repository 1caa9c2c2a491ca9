from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rayalign.evaluation import arena_files, mt_bench_files

MT_BENCH_ROW = {"prompt_id": 81, "category": "math", "prompt": ["a", "b"], "reference": ["c", "d"]}
ARENA_ROW = {"uid": "77ab", "category": "hard_prompt", "subcategory": "coding", "prompt": "a"}


@pytest.mark.parametrize(
    ("read", "row", "question"),
    [
        (mt_bench_files.read_questions, MT_BENCH_ROW, mt_bench_files.Question(81, "math", ("a", "b"), ("c", "d"))),
        (
            arena_files.read_questions,
            ARENA_ROW,
            arena_files.Question("77ab", "hard_prompt", "a", "coding", "v2.0", "subcategory"),
        ),
    ],
)
def test_questions_are_read_from_a_data_set_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, read: Callable[..., list[Any]], row: dict[str, Any], question: Any
) -> None:
    datasets = pytest.importorskip("datasets")
    requests = []

    def load_dataset(*arguments: str | None, split: str) -> list[dict[str, Any]]:
        requests.append((*arguments, split))
        return [row]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("somebody/a-benchmark") == [question]
    assert read("somebody/a-benchmark:small", "test") == [question]
    assert requests == [("somebody/a-benchmark", None, "train"), ("somebody/a-benchmark", "small", "test")]
