"""The pure functions beyond the algorithms that users' own code calls: their names, arguments and defaults stay."""

from __future__ import annotations

import pytest

from rayalign import evaluation
from rayalign.evaluation import arena_hard, mt_bench
from rayalign.evolve import informativeness
from rayalign.models import merge
from rayalign.scoring import combine
from tests.algorithms.test_names import plain

SIGNATURES = {
    (merge, "merge_lora"): "(factors, weights, *, alpha, mode)",
    (merge, "merge_adapters"): "(paths, weights, out, *, mode, rank=None)",
    (merge, "merge_models"): "(paths, weights, out)",
    (merge, "merge_tensors"): "(tensors, weights)",
    (combine, "combine"): "(scores_OB, weights_O, active_OB, *, kind, ideal_O=None)",
    (informativeness, "informativeness"): "(rewards_PK, metric)",
    (informativeness, "sampling_weights"): "(values_P, *, kind, floor=0.0)",
    (informativeness, "topic_blend"): "(weights_P, topics, coefficient)",
    (evaluation, "win_rate"): "(preferences)",
    (evaluation, "length_controlled"): "(preferences, lengths, baseline_lengths, *, difficulty=None, clusters=None, "
    "resamples=200)",
    (evaluation, "agreement"): "(judge, humans, clusters=None)",
    (evaluation, "cohen_kappa"): "(a, b)",
    (evaluation, "fleiss_kappa"): "(counts)",
    (arena_hard, "scores"): "(games, *, weight=3)",
    (arena_hard, "style_features"): "(model, baseline)",
    (mt_bench, "pairwise"): "(judgments, model, *, baseline=None)",
}
WIN_RATE = ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_wins_base", "n_draws", "n_total")


@pytest.mark.parametrize(("room", "name"), SIGNATURES, ids=lambda part: getattr(part, "__name__", part))
def test_functions_have_their_signatures(room: object, name: str) -> None:
    assert plain(getattr(room, name)) == SIGNATURES[room, name]


def test_a_win_rate_has_its_fields() -> None:
    assert evaluation.WinRate._fields == WIN_RATE
