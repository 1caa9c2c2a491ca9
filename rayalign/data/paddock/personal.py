"""Preferences in the embedded world: each is a constraint that a prompt may name (see `tasks.CONSTRAINTS`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rayalign.data.paddock import tasks
from rayalign.data.paddock.compose import ATTRIBUTE_OF
from rayalign.errors import InputError

WEIGHTS = "style_weights"
"""key of a prompt's meta: JSON of attribute -> weight in the style's share of gold utility, 1 where it is absent"""

Style = Mapping[str, str]


def joined(styles: Iterable[Style]) -> dict[str, str]:
    """All constraints together, in the order in which prompts name them."""
    whole: dict[str, str] = {}
    for style in styles:
        _verify(style)
        whole |= style
    return dict(sorted(whole.items()))


def styled_turn(text: str, style: Style) -> str:
    """A request that also names constraints, as the world's own prompts do."""
    wishes = [tasks.CONSTRAINTS[kind][value] for kind, value in joined([style]).items()]
    return tasks.STYLED.format(text=text, wishes=" , ".join(wishes))


def styled_task(task: str, style: Style) -> str:
    """The task of a prompt without constraints, with these."""
    return replace(tasks.parse(task), style=dict(style)).to_json()


def attribute_weights(styles: Mapping[str, Style], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of each attribute that a preference asks for.

    Args:
        styles: preference -> its constraints.
        weights: preference -> its weight in the profile.
    """
    by_attribute: dict[str, float] = {}
    for name, style in styles.items():
        for kind in style:
            by_attribute[ATTRIBUTE_OF[kind]] = weights[name]
    return by_attribute


def _verify(style: Style) -> None:
    for kind, value in style.items():
        if value not in tasks.CONSTRAINTS.get(kind, {}):
            choices = "; ".join(f"{own}: {', '.join(values)}" for own, values in tasks.CONSTRAINTS.items())
            raise InputError(f"style {kind}: {value} is no constraint of the embedded world; take one of {choices}")
