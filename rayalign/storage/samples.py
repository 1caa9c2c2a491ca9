"""The sample table of a training stage: some answers of each iteration, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayalign.storage.records import cut_torn_line, dumps
from rayalign.types import Group


class SampleTable:
    """Appends rows {iteration, prompt, answer, score, finish} to samples.jsonl."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def write(self, iteration: int, groups: Sequence[Group]) -> None:
        """The first candidate of each group."""
        for group in groups:
            first = group.trajectories[0]
            row = {
                "iteration": iteration,
                "prompt": group.prompt.messages[-1].content,
                "answer": first.text,
                "score": group.scores[0].value if group.scores else None,
                "finish": first.finish_reason,
            }
            self._file.write((dumps(row) + "\n").encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
