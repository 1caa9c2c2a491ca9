"""The loop of one rank, in this process."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rayalign.algorithms.base import load
from rayalign.algorithms.sft import Sft
from rayalign.config import GuardConfig, LearnerConfig, LoraConfig, TrackingConfig, TrainStage
from rayalign.coordinator.offline_data import OfflineSpec
from rayalign.coordinator.offline_loop import train_offline
from rayalign.coordinator.offline_reference import StoredReference, stored_reference
from rayalign.coordinator.progress import Heartbeat
from rayalign.data.chat import load_tokenizer
from rayalign.data.collate import EncodedRow, collate_examples
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.data.rows import RowFile, write_rows
from rayalign.data.two_answers import encode_comparisons
from rayalign.errors import GuardError, InputError, RollbackError
from rayalign.models.configuration import reads_pairs
from rayalign.models.learner import Learner
from rayalign.models.load import Frozen
from rayalign.models.process_group import meet
from rayalign.storage.metrics import read_metrics, reduce
from rayalign.types import Candidate, Example, LossSum, Message, Minibatch, Outputs, Prompt, Role

WEIGHTS = "model.safetensors"
LEARNER = LearnerConfig(learning_rate=1e-3, minibatch=8, micro_tokens=40)


def make_rows(pairs: int = 12, **changes: Any) -> list[EncodedRow]:
    """Pairs of answers of different lengths; the first of a pair has the higher score."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for pair in range(pairs):
        for answer in range(2):
            length = int(torch.randint(3, 9, (1,), generator=generator))
            ids = torch.randint(5, 200, (length,), generator=generator).tolist()
            row = EncodedRow(tuple(ids), (False, False, *[True] * (length - 2)), pair, 1.0 - answer, str(pair), 1.0)
            rows.append(replace(row, **changes))
    return rows


@pytest.fixture
def prepare(model: str, tmp_path: Path) -> Any:
    """Makes the spec of a stage, its rows written."""

    def prepared(algorithm: dict[str, Any], rows: Sequence[EncodedRow], **stage: Any) -> OfflineSpec:
        kind = load(algorithm)
        settings = {"kind": "train", "algorithm": algorithm, "model": model, "learner": LEARNER, **stage}
        spec = OfflineSpec(
            stage=TrainStage.model_validate(settings),
            role=kind.trains[0],
            model=model,
            tracking=TrackingConfig(),
            seed=3,
            folder=str(tmp_path / "stage"),
            events=str(tmp_path / "events.jsonl"),
            timeout=600.0,
            reference=model if "reference" in kind.roles else None,
        )
        write_rows(spec.rows_folder, rows)
        return spec

    return prepared


def metrics_of(spec: OfflineSpec, *areas: str) -> list[dict[str, float]]:
    rows = [row["metrics"] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")]
    chosen = [{name: value for name, value in row.items() if name.startswith(areas)} for row in rows]
    return [row for row in chosen if row]


def weights(spec: OfflineSpec) -> dict[str, torch.Tensor]:
    return load_file(Path(spec.folder) / "model" / WEIGHTS)


@pytest.mark.parametrize("name", ["sft", "reward"])
def test_rows_read_as_needed_train_as_one_matrix_does(prepare: Any, tmp_path: Path, name: str) -> None:
    rows = make_rows()
    spec = prepare({"name": name}, rows, epochs=2)
    train_offline(spec)
    algorithm = load({"name": name})
    head = "causal" if name == "sft" else "scalar"
    learner = Learner(spec.model, head, LEARNER, role=spec.role, total_steps=6, seed=3)  # type: ignore[arg-type]
    batch = algorithm.prepare(collate_examples(rows, 0))
    updates = [step for index in range(2) for step in learner.update(batch, algorithm, pass_index=index, seed=3)]
    wanted = [reduce([step]) for step in updates]
    steps = metrics_of(spec, "loss/", "learner/", f"{name}/")
    assert len(steps) == 6
    assert steps == wanted
    learner.save(tmp_path / "whole", load_tokenizer(spec.model))
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (Path(spec.folder) / "model" / WEIGHTS).read_bytes()


def test_held_out_figures_are_those_of_all_held_out_rows(prepare: Any) -> None:
    rows = make_rows()
    spec = prepare({"name": "reward"}, rows, holdout=0.75)
    train_offline(spec)
    first, last = metrics_of(spec, "eval/", "heldout/")
    assert first["heldout/count"] == last["heldout/count"] == 9
    assert first["eval/loss"] == pytest.approx(first["eval/loss/reward"])
    assert (first["eval/epoch"], last["eval/epoch"]) == (0, 1)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, alpha=4)])
def test_a_pairwise_reward_learns_an_order_and_its_folder_says_what_it_reads(
    prepare: Any, lora: LoraConfig | None
) -> None:
    tokenizer = build_tokenizer()
    prompts = [Prompt(str(i), (Message("user", "say " + "please " * (i % 4 + 1)),)) for i in range(24)]
    pairs = [Example(prompt, (Candidate("yes"), Candidate("no no")), 0.9) for prompt in prompts]
    rows = list(encode_comparisons(tokenizer, pairs, context=96))
    learner = LEARNER.model_copy(update={"learning_rate": 5e-3, "micro_tokens": 512, "lora": lora})
    spec = prepare({"name": "pairwise_reward"}, rows, holdout=0.25, learner=learner, epochs=2)
    train_offline(spec)
    before, after = metrics_of(spec, "eval/", "heldout/")[:: len(metrics_of(spec, "eval/")) - 1]
    assert before["heldout/count"] == after["heldout/count"] == 6
    assert after["eval/reward/accuracy"] == 1.0 and after["eval/reward/longer_accuracy"] == 0.0
    assert after["eval/loss"] < min(0.6, before["eval/loss"])
    folder = str(Path(spec.folder) / "model")
    assert reads_pairs(folder)
    with pytest.raises(InputError, match="it compares two answers, so it scores no single one"):
        Frozen(folder, "scalar", LEARNER)


@pytest.mark.parametrize(
    ("metric", "tripped"),
    [("learner/grad_norm", "step 1: learner/grad_norm is"), ("eval/loss", "step 0: eval/loss is")],
)
def test_a_guard_stops_the_stage(prepare: Any, metric: str, tripped: str) -> None:
    guard = GuardConfig(metric=metric, above=0.0, action="stop")
    spec = prepare({"name": "reward"}, make_rows(), holdout=0.25, guards=(guard,))
    with pytest.raises(GuardError, match=tripped):
        train_offline(spec)


class Undefined(Sft):
    """A loss that is no number."""

    def loss(self, role: Role, outputs: Outputs, minibatch: Minibatch) -> LossSum:
        loss_sum = super().loss(role, outputs, minibatch)
        return LossSum(loss_sum.numerator * torch.nan, loss_sum.normaliser)


def test_a_loss_that_is_no_number_stops_the_stage_and_leaves_its_minibatch(prepare: Any) -> None:
    spec = prepare({"name": f"{__name__}:Undefined"}, make_rows())
    file = Path(spec.folder) / "inspection" / "policy-step-000001.safetensors"
    with pytest.raises(GuardError, match=f"policy step 1: .* in {file}"):
        train_offline(spec)
    assert load_file(file)["input_ids_BT"].shape[0] == LEARNER.minibatch
    assert not (Path(spec.folder) / "model").exists()


def test_held_out_answers_that_are_all_alike_are_no_measure(prepare: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = prepare({"name": "reward"}, make_rows(score=1.0), holdout=0.25)
    train_offline(spec)
    assert metrics_of(spec, "eval/") == []
    assert "the held-out rows have nothing to measure" in caplog.text


def test_rows_of_which_none_can_be_trained_on_are_refused(prepare: Any) -> None:
    with pytest.raises(InputError, match="of the rows none can be trained on"):
        train_offline(prepare({"name": "reward"}, make_rows(score=None)))


def files_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*.npy"))}


def reference_files(spec: OfflineSpec) -> dict[Path, int]:
    return files_of(Path(spec.folder) / "reference")


def test_the_first_step_of_dpo_stands_on_the_reference(prepare: Any) -> None:
    spec = prepare({"name": "dpo"}, make_rows(), epochs=3)
    train_offline(spec)
    steps = metrics_of(spec, "loss/", "preference/")
    assert steps[0]["loss/policy"] == pytest.approx(0.693147, abs=1e-5)
    assert steps[0]["preference/margin"] == pytest.approx(0.0, abs=1e-5)
    assert steps[-1]["preference/margin"] > 0.05
    assert steps[-1]["preference/accuracy"] == 1.0


def test_a_reference_that_is_live_trains_as_a_stored_one_does(prepare: Any) -> None:
    losses = []
    for kind in ("stored", "live"):
        spec = prepare({"name": "dpo"}, make_rows(), reference_outputs=kind, epochs=2)
        train_offline(spec)
        losses.append([step["loss/policy"] for step in metrics_of(spec, "loss/")])
        assert bool(reference_files(spec)) == (kind == "stored")
        shutil.rmtree(spec.folder)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_stored_outputs_survive_an_interruption(prepare: Any) -> None:
    spec = prepare({"name": "dpo"}, make_rows())
    train_offline(spec)
    files = reference_files(spec)
    assert [path.name for path in files] == ["000000.npy"]
    train_offline(spec)
    assert reference_files(spec) == files


@pytest.fixture
def stored(model: str, tmp_path: Path) -> Any:
    """Computes and stores the reference's log-probs in files of ten rows."""
    meet()

    def computed(rows: Sequence[EncodedRow]) -> tuple[StoredReference, RowFile]:
        write_rows(tmp_path / "rows", rows)
        data = RowFile(tmp_path / "rows")
        with Heartbeat(tmp_path / "ranks", 0, timeout=600.0) as heartbeat:
            return stored_reference(tmp_path / "reference", data, model, LEARNER, heartbeat, chunk_rows=10), data

    return computed


def test_only_what_is_missing_is_computed_and_other_rows_are_others(stored: Any, tmp_path: Path) -> None:
    stored(make_rows())
    files = files_of(tmp_path / "reference")
    assert [path.name for path in files] == ["000000.npy", "000001.npy", "000002.npy"]
    next(iter(files)).unlink()
    stored(make_rows())
    again = files_of(tmp_path / "reference")
    assert [path.name for path in again if again[path] != files[path]] == ["000000.npy"]
    stored(make_rows(10))
    assert not set(files_of(tmp_path / "reference")) & set(files)


def test_stored_outputs_are_those_of_the_model(stored: Any, model: str) -> None:
    rows = make_rows()
    reference, data = stored(rows)
    batch = load({"name": "sft"}).prepare(collate_examples(rows, 0))
    outputs = Frozen(model, "causal", LEARNER).evaluate(batch)
    assert outputs.logprobs_BT is not None
    numbers_B = torch.tensor([3, 9, 10, 23])
    logprobs_BT = reference.logprobs(data.collate(numbers_B), numbers_B)
    width = logprobs_BT.shape[1]
    torch.testing.assert_close(logprobs_BT, outputs.logprobs_BT[numbers_B, :width], atol=1e-5, rtol=0)


def test_a_ranking_with_a_kl_has_both_models_offline(prepare: Any) -> None:
    spec = prepare({"name": "rrhf", "kl_coefficient": 0.1}, make_rows(), epochs=2)
    train_offline(spec)
    assert all(step["loss/policy"] > 0 for step in metrics_of(spec, "loss/"))


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_an_interrupted_stage_ends_with_the_same_bits(prepare: Any, tmp_path: Path, algorithm: str) -> None:
    spec = prepare({"name": algorithm}, make_rows(), epochs=3)
    train_offline(spec)
    whole = weights(spec)
    shutil.rmtree(Path(spec.folder) / "checkpoints" / "iteration-000003")
    half = Path(spec.folder) / "checkpoints" / ".iteration-000003.tmp"
    half.mkdir()
    train_offline(spec)
    assert not half.exists()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in weights(spec).items())
    assert [json.loads(line)["event"] for line in Path(spec.events).read_text().splitlines()].count("computed") == 2


def guarded(prepare: Any, metric: str, **changes: Any) -> OfflineSpec:
    """A stage of four epochs whose learning rate rises over the first ten of its twelve steps, to 1e-3."""
    limit = {"metric": metric, "action": "rollback", "rate": 0.5, **changes}
    learner = LEARNER.model_copy(update={"warmup_steps": 9})
    return prepare({"name": "reward"}, make_rows(), guards=(limit,), epochs=4, holdout=0.1, learner=learner)


def events_of(spec: OfflineSpec, kind: str) -> list[dict[str, Any]]:
    return [row for row in map(json.loads, Path(spec.events).read_text().splitlines()) if row["event"] == kind]


def test_a_guard_sends_the_stage_back_and_it_goes_on_with_other_samples_and_a_lower_rate(prepare: Any) -> None:
    spec = guarded(prepare, "learner/learning_rate", above=0.65e-3)
    with pytest.raises(RollbackError, match=r"^step 7: learner/learning_rate is 0\.0007, above 0\.00065; the stage"):
        train_offline(spec)
    (event,) = events_of(spec, "rolled_back")
    assert (event["stage"], event["to"], event["left"]) == ("stage", 6, 2)
    before = {row["step"]: row["metrics"] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")}
    train_offline(spec)
    rows = {row["step"]: row["metrics"] for row in read_metrics(Path(spec.folder) / "metrics.jsonl")}
    assert len(events_of(spec, "rolled_back")) == 1
    rates = [rows[step]["learner/learning_rate"] for step in range(1, 13)]
    assert rates == pytest.approx([0.1e-3 * min(step, 10) * (1.0 if step <= 6 else 0.5) for step in range(1, 13)])
    assert rows[7]["loss/reward"] != before[7]["loss/reward"]
    assert (rows[7]["guard/rollbacks"], rows[7]["guard/learning_rate_factor"]) == (1, 0.5)
    assert (Path(spec.folder) / "model").exists()


def test_a_stage_that_goes_back_too_often_stops(prepare: Any) -> None:
    spec = guarded(prepare, "eval/loss", above=0.0, rollbacks=1)
    with pytest.raises(RollbackError, match="^step 0: eval/loss"):
        train_offline(spec)
    with pytest.raises(GuardError, match=r"^step 0: eval/loss is .* as its guard allows \(rollbacks: 1\)"):
        train_offline(spec)


def test_a_guard_that_could_send_it_back_changes_nothing_of_a_good_run(prepare: Any) -> None:
    spec = guarded(prepare, "learner/learning_rate", above=1.0)
    train_offline(spec)
    guarded_weights = weights(spec)
    shutil.rmtree(spec.folder)
    assert not events_of(spec, "rolled_back")
    plain = guarded(prepare, "learner/learning_rate", above=1.0)
    train_offline(replace(plain, stage=plain.stage.model_copy(update={"guards": ()})))
    assert all(torch.equal(tensor, guarded_weights[name]) for name, tensor in weights(plain).items())


def test_a_loss_that_is_no_number_sends_a_guarded_stage_back(prepare: Any) -> None:
    guard = GuardConfig(metric="learner/grad_norm", above=1e3, action="rollback")
    with pytest.raises(RollbackError, match=r"^policy step 1: .*no step was taken; the stage goes back"):
        train_offline(prepare({"name": f"{__name__}:Undefined"}, make_rows(), guards=(guard,)))


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
