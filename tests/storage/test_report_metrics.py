"""Units and directions of all that a run measures."""

from __future__ import annotations

import pytest

from rayalign.algorithms.base import algorithm_names, load
from rayalign.coordinator.iteration import METRICS as ITERATION_METRICS
from rayalign.models.metrics import of_roles
from rayalign.pipeline.train_checks import OFFLINE_METRICS
from rayalign.storage.report_metrics import metric_of

PLAIN = {"eval/epoch"}
"""numbers without a unit"""


def reported() -> set[str]:
    """All that stages report, but for the phases, which are bars in seconds."""
    names = {*ITERATION_METRICS, *OFFLINE_METRICS}
    for algorithm in map(load, [{"name": name} for name in algorithm_names()]):
        names |= {*algorithm.metrics, *of_roles(algorithm.trains)}
    return {name for name in names if not name.startswith("phase/")} - PLAIN


@pytest.mark.parametrize("name", sorted(reported()))
def test_every_metric_of_a_stage_has_a_unit(name: str) -> None:
    assert metric_of(name).unit
    assert metric_of(f"eval/{name}").unit


def test_held_out_figures_are_read_as_those_of_training() -> None:
    assert metric_of("eval/preference/margin") == metric_of("preference/margin")
    assert metric_of("eval/loss").remark == "held out, lower is better"
    assert metric_of("gold_utility@P1A").better == "higher"
    assert metric_of("no/such") == metric_of("courtesy/share")
