from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rayalign.algorithms.base import load
from rayalign.algorithms.ppo import Ppo, PpoConfig
from rayalign.algorithms.sft import Sft, SftConfig
from rayalign.config import LearnerConfig
from rayalign.errors import GuardError, InputError
from rayalign.models.batching import pass_over
from rayalign.models.heads import TokenLogprobs
from rayalign.models.learner import Learner
from rayalign.models.metrics import METRICS, PADDING
from rayalign.models.objective import Objective
from rayalign.models.schedule import schedule
from rayalign.types import Batch, LossSum, Minibatch, Outputs, Role
from tests.models.conftest import (
    WEIGHTED,
    Weighted,
    make_batch,
    make_learner,
    run_two_ranks,
    settings,
    train,
    weights,
)
from tests.models.ranks import SETTINGS

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expected(folder: str) -> Weights:
    """Weights after two passes in a world of one, each minibatch in one micro-batch."""
    learner = make_learner(folder)
    train(learner, passes=2)
    return weights(learner)


@pytest.fixture(scope="module")
def two_ranks(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left behind; see ranks.py."""
    out = tmp_path_factory.mktemp("ranks")
    run_two_ranks("tests.models.ranks", folder, out)
    return out


def assert_close(got: Weights, wanted: Weights, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)


def test_steps_are_those_of_plain_torch(folder: str) -> None:
    config = settings(learning_rate=0.01, eps=1e-4, betas=(0.9, 0.95), weight_decay=0.1, clip_norm=0.3, minibatch=12)
    learner = make_learner(folder, config)
    metrics = train(learner, passes=3)
    head = TokenLogprobs(AutoModelForCausalLM.from_pretrained(folder))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, eps=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    batch = make_batch()
    for step in metrics:
        logprobs_BT, _ = head(batch["input_ids_BT"], batch["attention_mask_BT"], batch["policy_mask_BT"])
        (-(batch["advantages_BT"] * logprobs_BT).sum() / batch["policy_mask_BT"].sum()).backward()
        norm = torch.nn.utils.clip_grad_norm_(head.parameters(), 0.3)
        assert step["learner/grad_norm"].value == pytest.approx(norm.item(), rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    assert_close(weights(learner), dict(head.model.named_parameters()), 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_tokens": 1},
        {"micro_tokens": 60},
        {"micro_tokens": 60, "zero_stage": 1},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "all"},
        {"gradient_checkpointing": True},
    ],
)
def test_how_it_is_computed_changes_no_gradient(folder: str, expected: Weights, changes: dict[str, Any]) -> None:
    learner = make_learner(folder, settings(**changes))
    train(learner, passes=2)
    assert_close(weights(learner), expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_end_as_one_does(two_ranks: Path, folder: str, name: str) -> None:
    ranks = [torch.load(two_ranks / f"rank{rank}.pt", weights_only=False)[name] for rank in (0, 1)]
    assert all(rank["resumed"] for rank in ranks)
    saved = AutoModelForCausalLM.from_pretrained(two_ranks / f"model-{name}")
    assert_close(dict(saved.state_dict()), ranks[0]["weights"], 0.0)
    assert ranks[0]["metrics"] == ranks[1]["metrics"]
    alone = make_learner(folder, settings(lora=SETTINGS[name].get("lora")))
    logprobs_BT = alone.evaluate(make_batch()).logprobs_BT
    torch.testing.assert_close(ranks[1]["logprobs"], logprobs_BT[:9], atol=1e-5, rtol=0)
    assert ranks[1]["probe"] == (ranks[0]["probe"] if SETTINGS[name]["zero_stage"] == 3 else None)
    assert ranks[0]["probe"][0] == pytest.approx(alone.score_probe([[4, 5, 6, 7]])[0], abs=1e-5)
    for got, wanted in zip(ranks[0]["metrics"], train(alone, passes=2), strict=True):
        assert got.keys() == wanted.keys()
        values, expected = ({k: m.value for k, m in step.items() if k != PADDING} for step in (got, wanted))
        assert values == pytest.approx(expected, rel=1e-4)
    assert_close(ranks[0]["weights"], weights(alone), 1e-5)
    if SETTINGS[name].get("lora"):
        torch.testing.assert_close(ranks[1]["reference"], logprobs_BT[:9], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name, changes in SETTINGS.items() if "ema" in changes])
def test_two_ranks_save_the_average_that_one_does(two_ranks: Path, folder: str, tmp_path: Path, name: str) -> None:
    alone = make_learner(folder, settings(lora=SETTINGS[name].get("lora"), ema=0.5))
    train(alone, passes=2)
    alone.save(tmp_path, AutoTokenizer.from_pretrained(folder))
    theirs, ours = (
        AutoModelForCausalLM.from_pretrained(path / "ema") for path in (two_ranks / f"model-{name}", tmp_path)
    )
    assert_close(dict(theirs.state_dict()), dict(ours.state_dict()), 1e-5)
    assert not all(torch.equal(ours.state_dict()[name], weight) for name, weight in weights(alone).items())


def test_a_resumed_average_is_that_of_a_run_without_interruption(folder: str, tmp_path: Path) -> None:
    config = settings(ema=0.5, clip_norm=0.3)
    learner = make_learner(folder, config)
    train(learner)
    learner.save_state(tmp_path / "state")
    train(learner)
    learner.save(tmp_path / "whole", AutoTokenizer.from_pretrained(folder))
    resumed = make_learner(folder, config)
    resumed.load_state(tmp_path / "state")
    train(resumed)
    resumed.save(tmp_path / "resumed", AutoTokenizer.from_pretrained(folder))
    whole, again = (load_file(tmp_path / name / "ema" / "model.safetensors") for name in ("whole", "resumed"))
    assert_close(again, whole, 0.0)


def test_the_first_ratio_of_ppo_is_one(folder: str) -> None:
    learner = make_learner(folder, settings(micro_tokens=60), temperature=0.7)
    batch = make_batch()
    learner.update(batch, WEIGHTED, pass_index=0, seed=0)
    logprobs_BT = learner.evaluate(batch).logprobs_BT
    tensors = batch.tensors | {"logprobs_BT": logprobs_BT, "weights_BT": torch.ones_like(logprobs_BT)}
    steps = learner.update(Batch(tensors, batch.unit_B), load({"name": "ppo"}), pass_index=0, seed=0)
    assert steps[0]["policy/ratio_min"].value == pytest.approx(1.0, abs=1e-6)
    assert steps[0]["policy/ratio_max"].value == pytest.approx(1.0, abs=1e-6)
    assert steps[0]["policy/clip_fraction"].value == 0.0
    assert steps[1]["policy/ratio_max"].value > 1.0001


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_entropy_has_a_gradient_where_the_algorithm_differentiates_it(folder: str, coefficient: float) -> None:
    requested = []

    class Watched(Ppo):
        def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
            assert outputs.entropy_BT is not None
            requested.append(outputs.entropy_BT.requires_grad)
            return super().loss(role, outputs, minibatch)

    batch = make_batch()
    ones_BT = torch.ones_like(batch["policy_mask_BT"], dtype=torch.float32)
    tensors = batch.tensors | {"logprobs_BT": -ones_BT, "weights_BT": ones_BT}
    algorithm = Watched(PpoConfig(name="watched", entropy_coefficient=coefficient))
    make_learner(folder).update(Batch(tensors, batch.unit_B), algorithm, pass_index=0, seed=0)
    assert set(requested) == {coefficient > 0}


def test_entropy_is_left_out_where_no_loss_reads_it(folder: str) -> None:
    class Watched(Sft):
        def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
            assert outputs.entropy_BT is None
            return super().loss(role, outputs, minibatch)

    steps = make_learner(folder).update(make_batch(), Watched(SftConfig(name="sft")), pass_index=0, seed=0)
    assert steps[0]["loss/sft"].value > 0


def test_metrics_of_a_step_cover_all_its_micro_batches(folder: str) -> None:
    batch = make_batch()
    steps = train(make_learner(folder, settings(micro_tokens=30)))
    assert len(steps) == 2
    assert sum(s["learner/tokens"].value for s in steps) == batch["attention_mask_BT"].sum()
    assert sum(s["loss/toy"].weight for s in steps) == batch["policy_mask_BT"].sum()
    assert {name for name in steps[0] if name.startswith("learner/")} == METRICS


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16")])
def test_a_loss_that_is_not_finite_stops_before_its_step(
    folder: str, tmp_path: Path, stage: int, precision: str
) -> None:
    config = settings(zero_stage=stage, precision=precision, minibatch=12, micro_tokens=60)
    learner = make_learner(folder, config, inspection=tmp_path / "inspection")
    train(learner)
    before, bad = weights(learner), make_batch()
    bad.tensors["advantages_BT"][5, 5] = torch.inf
    file = tmp_path / "inspection" / "policy-step-000002.safetensors"
    with pytest.raises(GuardError, match=f"policy step 2: .* no step was taken; its minibatch is in {file}"):
        learner.update(bad, WEIGHTED, pass_index=0, seed=0)
    assert_close(weights(learner), before, 0.0)
    (step,) = train(learner)  # no gradient is left
    assert math.isfinite(step["learner/grad_norm"].value)


def test_the_minibatch_of_such_a_step_is_saved_with_its_settings(folder: str, tmp_path: Path) -> None:
    learner = make_learner(folder, settings(minibatch=12), inspection=tmp_path)
    bad = make_batch()
    bad.tensors["advantages_BT"][5, 5] = torch.nan
    with pytest.raises(GuardError):
        learner.step(bad, WEIGHTED, Objective(make_batch(seed=1), WEIGHTED, area="mixture"))
    (file,) = tmp_path.iterdir()
    saved = load_file(file)
    assert saved.keys() >= {"input_ids_BT", "policy_mask_BT", "unit_B", "mixture/input_ids_BT", "mixture/unit_B"}
    torch.testing.assert_close(saved["advantages_BT"], bad["advantages_BT"], equal_nan=True)
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["algorithm"]) == {"name": "weighted"}


class Broken(Weighted):
    """A loss that is infinite, though its gradient is not."""

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        loss_sum = super().loss(role, outputs, minibatch)
        return LossSum(loss_sum.numerator + torch.inf, loss_sum.normaliser)


def test_an_infinite_loss_stops_even_where_its_gradient_is_finite(folder: str) -> None:
    learner = make_learner(folder)
    before = weights(learner)
    with pytest.raises(GuardError, match="policy step 1: .* its minibatch was not saved"):
        learner.update(make_batch(), Broken(WEIGHTED.config), pass_index=0, seed=0)
    assert_close(weights(learner), before, 0.0)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_stop_together_at_a_loss_that_one_has(two_ranks: Path, name: str) -> None:
    ranks = [torch.load(two_ranks / f"rank{rank}.pt", weights_only=False)[name] for rank in (0, 1)]
    file = two_ranks / "inspection" / f"policy-step-{ranks[0]['steps'] + 1:06d}.safetensors"
    assert ranks[0]["stopped"] == ranks[1]["stopped"]
    assert f"its minibatch is in {file}" in ranks[0]["stopped"]
    assert ranks[0]["unmoved"]  # under ZeRO-3 no other rank has the whole tensors


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (2, "fp32"), (0, "bf16")])
def test_a_resumed_learner_goes_on_bit_by_bit(folder: str, tmp_path: Path, stage: int, precision: str) -> None:
    config = LearnerConfig(
        learning_rate=0.01, schedule="cosine", minibatch=8, zero_stage=stage, precision=precision, micro_tokens=60
    )
    learner = make_learner(folder, config)
    train(learner)
    learner.save_state(tmp_path)
    random = torch.rand(3)
    wanted_metrics, wanted = train(learner), weights(learner)
    learner.close()
    again = make_learner(folder, config)
    again.load_state(tmp_path)
    assert torch.equal(torch.rand(3), random)
    assert train(again) == wanted_metrics
    assert_close(weights(again), wanted, 0.0)


def test_bf16_learns(folder: str) -> None:
    learner = make_learner(folder, LearnerConfig(learning_rate=0.01, precision="bf16", minibatch=12, micro_tokens=60))
    losses = [step["loss/toy"].value for step in train(learner, passes=8)]
    assert losses[-1] < losses[0] - 0.5
    assert {x.dtype for x in weights(learner).values()} == {torch.bfloat16}


def test_a_critic_learns_from_zero_and_is_saved(
    folder: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    config = LearnerConfig(learning_rate=0.01, minibatch=12)
    learner = make_learner(folder, config, head="scalar", role="critic", initial="zero")
    batch = make_batch()
    assert not learner.evaluate(batch).values_BT.any()
    losses = [step["loss/toy"].value for step in train(learner, passes=10)]
    assert losses[-1] < 0.7 * losses[0]
    learner.save(tmp_path, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    own_B1 = model(input_ids=batch["input_ids_BT"], attention_mask=batch["attention_mask_BT"]).logits
    torch.testing.assert_close(learner.evaluate(batch).scores_B, own_B1[:, 0].detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("role", ["critic", "reward"])
def test_how_a_scalar_model_is_computed_changes_no_gradient(folder: str, role: Role) -> None:
    batch, algorithm = make_batch(), load({"name": "reward"}) if role == "reward" else WEIGHTED
    batch.tensors["scores_B"] = torch.arange(len(batch), dtype=torch.float32)
    ends = []
    for changes in ({}, {"zero_stage": 2, "offload": "optimizer", "micro_tokens": 30, "gradient_checkpointing": True}):
        learner = make_learner(folder, settings(learning_rate=0.1, **changes), head="scalar", role=role)
        steps = learner.update(batch, algorithm, pass_index=0, seed=3)
        assert [step["learner/learning_rate"].value for step in steps] == [0.1, 0.1]
        ends.append(weights(learner))
    assert_close(*ends)


def test_what_a_training_saves_is_opened_again(
    folder: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = copy.deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "<outside>"})
    with pytest.raises(InputError, match=r"was written but cannot be opened again .*[Pp]adding_idx"):
        make_learner(folder).save(tmp_path / "model", padded)

    def save_config_alone(place: Path, *_: object, **__: object) -> None:
        place.mkdir()
        (place / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 1}')

    monkeypatch.setattr("rayalign.models.learner.save_adapter", save_config_alone)
    adapted = make_learner(folder, settings(lora={"rank": 2, "targets": ["q_proj"]}))
    with pytest.raises(InputError, match=r"adapter was written but cannot be opened again .*has no adapter_model"):
        adapted.save(tmp_path / "adapted", tokenizer)


def test_each_pass_has_every_row_once_in_an_order_of_its_own() -> None:
    lengths_B, unit_B = torch.full((20,), 5), torch.arange(20)
    passes = [torch.cat(pass_over(lengths_B, unit_B, settings(minibatch=8), 3, index)).tolist() for index in (0, 1)]
    assert [sorted(rows) for rows in passes] == [list(range(20))] * 2
    assert passes[0] != passes[1]


def test_micro_batches_do_not_move_the_learning_rate(folder: str) -> None:
    config = settings(learning_rate=1.0, schedule="linear", micro_tokens=30)
    rates = [step["learner/learning_rate"].value for step in train(make_learner(folder, config), passes=2)]
    assert rates == pytest.approx([1.0, 0.9, 0.8, 0.7])


def test_the_probe_is_at_temperature_one(folder: str) -> None:
    learner = make_learner(folder, temperature=0.5)
    (short, long) = learner.score_probe([[5, 6], [7, 8, 9]])
    model = AutoModelForCausalLM.from_pretrained(folder)
    full_TV = model(input_ids=torch.tensor([[7, 8, 9]])).logits[0].log_softmax(dim=-1)
    assert long == pytest.approx([full_TV[0, 8].item(), full_TV[1, 9].item()], abs=1e-5)
    assert len(short) == 1


def test_weights_have_the_names_of_hugging_face(folder: str) -> None:
    named: Learner = make_learner(folder)
    assert dict(named.weights(0).tensors).keys() == AutoModelForCausalLM.from_pretrained(folder).state_dict().keys()


def test_schedules() -> None:
    def factors(schedule_name: str, warmup: int) -> list[float]:
        factor = schedule(LearnerConfig(schedule=schedule_name, warmup_steps=warmup), 6)
        return [factor(step) for step in range(8)]

    assert factors("constant", 1) == [0.5] + [1.0] * 7
    assert factors("linear", 2) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    assert factors("cosine", 0) == pytest.approx([1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0, 0.0], abs=1e-3)


def test_a_closed_learner_under_zero_3_keeps_no_memory(folder: str) -> None:
    """DeepSpeed holds its model for as long as the process lives, and a process takes one role after another."""
    learner = make_learner(folder, settings(zero_stage=3, zero_live_parameters=0))
    train(learner)
    storages = [parameter.ds_tensor.untyped_storage() for parameter in learner._head.parameters()]
    assert all(storage.nbytes() for storage in storages)
    learner.close()
    assert not any(storage.nbytes() for storage in storages)
