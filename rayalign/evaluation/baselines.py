"""Gold utility and policies without a model: reference rows for evaluations in the embedded world."""

from __future__ import annotations

from rayalign.data.paddock import baselines, gold, tasks
from rayalign.data.paddock.compose import ATTRIBUTE_OF
from rayalign.types import Prompt

ANSWERS = {
    "constant": baselines.constant,
    "empty": baselines.empty,
    "copy": baselines.copy,
    "longest": baselines.longest,
    "oracle": gold.oracle,
}
"""name -> the policy's answer to a prompt"""
gold_utility = gold.utility
gold_attributes = gold.attributes


def asked_attributes(prompt: Prompt) -> set[str]:
    """The attributes that a prompt asks for, or that its profile of preferences wants; none outside the world."""
    if "task" not in prompt.meta:
        return set()
    return {ATTRIBUTE_OF[kind] for kind in tasks.parse(prompt.meta["task"]).style}
