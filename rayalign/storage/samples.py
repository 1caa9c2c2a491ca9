"""The sample table of a training stage: some answers of each iteration, for people to read."""

from __future__ import annotations

from collections.abc import Sequence

from rayalign.storage.records import Appender
from rayalign.types import Group


class SampleTable(Appender):
    """Appends rows {iteration, prompt, answer, score, finish} to samples.jsonl."""

    def write(self, iteration: int, groups: Sequence[Group]) -> None:
        """The first candidate of each group."""
        for group in groups:
            first = group.trajectories[0]
            self.append(
                {
                    "iteration": iteration,
                    "prompt": group.prompt.messages[-1].content,
                    "answer": first.text,
                    "score": group.scores[0].value if group.scores else None,
                    "finish": first.finish_reason,
                }
            )
