"""Candidates that a beam search writes, alike in all engines: those of one prompt are the answers of one search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from rayalign.config import SamplingConfig
from rayalign.rollout.beams import Likely, Search, search
from rayalign.rollout.drafts import Draft, Drafts

NextTokens = Callable[[Sequence[tuple[int, ...]], int, SamplingConfig], Sequence[Likely]]
"""so many likely next tokens of each sequence, under the temperature of a sampling"""


class BeamDrafts:
    """The candidates of one engine that wait for a search."""

    def __init__(self, drafts: Drafts, rows: int) -> None:
        """`rows`: beams that are looked at together."""
        self._drafts = drafts
        self._rows = rows
        self._waiting: list[Draft] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, draft: Draft) -> None:
        """Queue a candidate."""
        self._waiting.append(draft)

    def abort(self, keys: Collection[str]) -> None:
        """Forget queued candidates."""
        self._waiting = [draft for draft in self._waiting if draft.request.key not in keys]

    def write(self, next_tokens: NextTokens, version: int) -> None:
        """Run beam searches for queued candidates with equal sampling settings, and return their answers."""
        sampling = self._waiting[0].request.sampling
        assert sampling.beams is not None
        by_prompt: dict[tuple[object, ...], list[Draft]] = {}
        for draft in self._waiting:
            request = draft.request
            if request.sampling == sampling:
                by_prompt.setdefault((request.prompt_ids, request.stop_ids, draft.limit), []).append(draft)
        together = max(1, self._rows // sampling.beams.width)
        prompts = list(by_prompt.values())[:together]
        searches = []
        for drafts in prompts:
            request = drafts[0].request
            searches.append(Search(request.prompt_ids, sampling.beams, request.stop_ids, drafts[0].limit))
        search(searches, lambda prefixes, count: next_tokens(prefixes, count, sampling))
        for each, drafts in zip(searches, prompts, strict=True):
            self._finish(each, drafts, version)

    def _finish(self, finished: Search, drafts: Sequence[Draft], version: int) -> None:
        answers = finished.answers()
        for draft in drafts:
            self._waiting.remove(draft)
            place = draft.request.draw
            if place >= len(answers):
                self._drafts.fail(draft.request.key, f"the beam search found {len(answers)} answers")
                continue
            answer = answers[place]
            assert answer.reason is not None
            draft.tokens, draft.logprobs = list(answer.tokens), list(answer.logprobs)
            draft.version_runs = [(0, version)]
            self._drafts.finish(draft, answer.reason)
