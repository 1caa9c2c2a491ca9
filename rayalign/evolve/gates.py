"""What a new prompt must pass, in this order; the first refusal is its reason.

    written? -> valid -> no benchmark -> no duplicate -> no drift -> no repetition

A prompt that passes joins the pool, so that later ones are compared with it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rayalign.config import GateConfig
from rayalign.data.near_sets import NearSets, hashes
from rayalign.evolve.texts import Benchmarks, distinct_share, grams, normalised, shared_words
from rayalign.types import Prompt


def last_turn(prompt: Prompt) -> str:
    """What the prompt asks at last, which operators change."""
    return prompt.messages[-1].content


def dialogue_text(prompt: Prompt) -> str:
    """All turns of a prompt as one text."""
    return "\n".join(message.content for message in prompt.messages)


class Gates:
    """The gates of one stage, with the pool of its prompts."""

    def __init__(
        self, config: GateConfig, pool: Iterable[Prompt], benchmarks: Iterable[Prompt] = (), marks: Sequence[str] = ()
    ) -> None:
        """
        Args:
            pool: the prompts that there are already.
            benchmarks: prompts that must not come up.
            marks: words of the operators' instructions, in lower case, which no prompt repeats.
        """
        self._config = config
        self._marks = marks
        self._texts: set[str] = set()
        self._near = NearSets(config.near)
        self._benchmarks = Benchmarks(map(dialogue_text, benchmarks), config.overlap)
        for prompt in pool:
            self._add(prompt)

    def admit(self, prompt: Prompt | None, parent: Prompt, ancestor: str) -> str | None:
        """Why a new prompt is refused; None where it passes.

        Args:
            prompt: None where the evolver gave none.
            ancestor: the last turn of its first ancestor; the parent's own where there is none before.
        """
        if prompt is None:
            return "absent"
        reason = self._invalid(last_turn(prompt), last_turn(parent)) or self._repeated(prompt)
        reason = reason or self._astray(last_turn(prompt), ancestor)
        if reason is None:
            self._add(prompt)
        return reason

    def _invalid(self, text: str, parent: str) -> str | None:
        clean = normalised(text)
        if not clean:
            return "empty"
        if clean == normalised(parent):
            return "the parent again"
        if len(text) < self._config.shortest:
            return "too short"
        if len(text) > self._config.longest:
            return "too long"
        if not any(character.isalnum() for character in clean):
            return "no words"
        return "the operator's instruction" if any(mark in clean for mark in self._marks) else None

    def _repeated(self, prompt: Prompt) -> str | None:
        text = dialogue_text(prompt)
        if self._benchmarks.overlaps(text):
            return "in a benchmark"
        if normalised(text) in self._texts:
            return "duplicate"
        return "near duplicate" if self._near.near(hashes(grams(text))) else None

    def _astray(self, text: str, ancestor: str) -> str | None:
        if shared_words(ancestor, text) < self._config.ancestor:
            return "drift"
        return "repetitive" if distinct_share([text]) < self._config.distinct else None

    def _add(self, prompt: Prompt) -> None:
        text = dialogue_text(prompt)
        self._texts.add(normalised(text))
        self._near.add(hashes(grams(text)))
