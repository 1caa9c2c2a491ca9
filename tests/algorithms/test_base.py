"""What holds for every algorithm."""

import math
from dataclasses import fields

import pytest
import torch

from rayalign.algorithms import ops
from rayalign.algorithms.base import Algorithm, load
from rayalign.algorithms.sft import Sft
from rayalign.errors import InputError
from rayalign.types import Outputs

SETTINGS = (
    {"name": "sft"},
    {"name": "reward", "margin": 0.3},
    {"name": "rrhf"},
    {"name": "rrhf", "published_arithmetic": True, "kl_coefficient": 0.1},
    {"name": "ppo", "entropy_coefficient": 0.1, "kl_target": 2.0, "normalise_scores": True},
    {"name": "ppo", "aggregation": "seq-mean-token-mean", "dual_clip": 3.0, "missing_eos": "replace"},
    {"name": "ppo", "aggregation": "seq-mean-token-sum-norm", "max_length": 5, "kl_coefficient": 0.0},
    {"name": "grpo", "entropy_coefficient": 0.1},
    {"name": "grpo", "unbiased_kl": False, "no_std": True},
    {"name": "grpo", "kl_coefficient": 0.0, "clip_high": 0.28, "aggregation": "token-mean", "score_clip": 1.0},
    {"name": "rloo"},
    {"name": "rloo", "kl_coefficient": 0.0, "normalise_scores": True, "clip_high": 1e9},
    {"name": "kto", "undesirable_weight": 2.0},
    {"name": "kto", "kl": "opposite"},
    {"name": "quark", "entropy_coefficient": 0.1},
)
SPLITS = {"sequence": ([0, 3], [1], [2, 4, 5]), "group": ([3, 4], [0, 1, 2, 5])}


class Own(Sft):
    """A user's own."""


def gradients(total: torch.Tensor, outputs: Outputs) -> list[torch.Tensor]:
    leaves = [getattr(outputs, f.name) for f in fields(outputs)]
    return list(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))


def rows_of(outputs: Outputs, rows: torch.Tensor) -> Outputs:
    return Outputs(*(getattr(outputs, f.name)[rows] for f in fields(outputs)))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_a_split_into_units_changes_neither_sum_nor_gradient(settings, make_rollouts, make_outputs):
    algorithm = load(settings)
    batch = algorithm.prepare(make_rollouts())
    outputs = make_outputs(batch["policy_mask_BT"])
    for role in algorithm.trains:
        whole = algorithm.loss(role, outputs, batch)
        losses, merged = [], {}
        for rows in map(torch.tensor, SPLITS[algorithm.unit]):
            losses.append(algorithm.loss(role, rows_of(outputs, rows), batch.rows(rows)))
            assert losses[-1].normaliser == algorithm.normaliser(role, batch.rows(rows))
            for name, metric in losses[-1].metrics.items():
                merged[name] = merged[name].merge(metric) if name in merged else metric
        total = sum(loss.numerator for loss in losses)
        torch.testing.assert_close(total, whole.numerator)
        torch.testing.assert_close(gradients(total, outputs), gradients(whole.numerator, outputs))
        assert sum(loss.normaliser for loss in losses) == whole.normaliser == algorithm.normaliser(role, batch)
        expected = {name: metric.value for name, metric in whole.metrics.items()}
        assert {name: metric.value for name, metric in merged.items()} == pytest.approx(expected)
        assert whole.metrics[f"loss/{role}" if settings["name"] != "sft" else "loss/sft"].weight == whole.normaliser


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_reported_metric_is_declared(settings, make_rollouts, make_outputs):
    algorithm = load(settings)
    batch = algorithm.prepare(make_rollouts())
    reported = set(batch.metrics)
    for role in algorithm.trains:
        reported |= algorithm.loss(role, make_outputs(batch["policy_mask_BT"]), batch).metrics.keys()
    assert reported == algorithm.metrics


def test_an_algorithm_without_a_declaration_has_the_shared_metrics():
    class Plain(Sft):
        metrics = Algorithm.metrics

    assert Plain(Sft.Config(name="plain")).metrics == ops.ROLLOUT_METRICS | {"loss/policy"}


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_padding_prompts_and_environment_have_no_influence(settings, poison, make_rollouts, make_outputs):
    algorithm = load(settings)
    clean, dirty = (algorithm.prepare(make_rollouts(x)) for x in (0.0, poison))
    mask = clean["policy_mask_BT"]
    for name, tensor in clean.tensors.items():
        torch.testing.assert_close(dirty[name], tensor, rtol=0, atol=0)
    assert (dirty.metrics, dirty.state) == (clean.metrics, clean.state)
    for role in algorithm.trains:
        found = []
        for fill in (0.0, poison):
            outputs = make_outputs(mask, fill)
            loss = algorithm.loss(role, outputs, dirty)
            found.append((loss.numerator, *gradients(loss.numerator, outputs)))
            assert all(math.isfinite(metric.value) for metric in loss.metrics.values())
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        assert all((g[mask == 0] == 0).all() for g in found[1][1:] if g.ndim == 2)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_rollouts_are_left_as_they_were(settings, make_rollouts):
    rollouts, before = make_rollouts(), make_rollouts()
    load(settings).prepare(rollouts)
    for f in fields(before):
        own, other = getattr(rollouts, f.name), getattr(before, f.name)
        assert torch.equal(own, other) if isinstance(other, torch.Tensor) else own == other


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_an_algorithm_gets_by_with_what_it_asks_for(settings, make_rollouts):
    algorithm, rollouts = load(settings), make_rollouts()
    names = ("behaviour_logprobs", "logprobs", "reference_logprobs", "values", "scores")
    for name in set(names) - algorithm.needs:
        setattr(rollouts, f"{name}_B" if name == "scores" else f"{name}_BT", None)
    rollouts.ended_B = None
    assert len(algorithm.prepare(rollouts)) == 6
    assert ("reference" in algorithm.roles) == bool(algorithm.needs & {"reference_logprobs", "exact_kl"})
    assert set(algorithm.trains) <= algorithm.roles


def test_a_users_own_class_is_found_by_its_path():
    assert type(load({"name": f"{__name__}:Own"})).__name__ == "Own"
    with pytest.raises(InputError, match="package.module:Class"):
        load({"name": f"{__name__}:Missing"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("json:loads", "is no subclass of rayalign.algorithms.base:Algorithm"),
        ("json:JSONDecoder", "is no subclass of rayalign.algorithms.base:Algorithm"),
        ("rayalign.algorithms.base:Algorithm", "lacks Config"),
    ],
)
def test_a_path_to_something_else_is_refused(path, message):
    with pytest.raises(InputError, match=f"algorithm {path}: {message}"):
        load({"name": path})


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean rrhf"):
        load({"name": "rrfh"})
    with pytest.raises(InputError, match="known: .*ppo.*sft"):
        load({"name": "zzzzzz"})


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="algorithm ppo"):
        load({"name": "ppo", "epoch": 3})


def test_shared_mathematics_is_no_algorithm():
    with pytest.raises(InputError, match="algorithm 'policy_gradient' is not known; .*ppo"):
        load({"name": "policy_gradient"})
