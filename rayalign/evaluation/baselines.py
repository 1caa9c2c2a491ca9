"""Gold utility and policies without a model: reference rows for evaluations in the embedded world."""

from __future__ import annotations

from rayalign.data.paddock import baselines, gold

ANSWERS = {
    "constant": baselines.constant,
    "empty": baselines.empty,
    "copy": baselines.copy,
    "longest": baselines.longest,
    "oracle": gold.oracle,
}
"""name -> the policy's answer to a prompt"""
gold_utility = gold.utility
