from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import Job, LoadedJob, load_job
from rayalign.pipeline.hashing import stage_fields, stage_hashes, stage_states
from rayalign.storage.summary import write_done
from tests.pipeline.conftest import ROUNDS

Study = Callable[..., LoadedJob]
QUICKSTART = {
    "base": "61e8174da177d85680ed2fa1d6e63b42",
    "sft": "39702393bf2c038d50f4919670d61ad8",
    "answers": "42063e39b1f5c61de1eb890f067f88f5",
    "labels": "29c21dc040319aa7525a7cdf5065e2e1",
    "rm": "55b8508648a4aad87fae70e95880bba2",
    "ppo": "96e6fb49bea4a4b3a6b60f0da26c56ad",
    "rrhf": "133bc9dbed16a6fb043b0be436d70545",
    "sft_continued": "ddc35153db8d0278a8a6f58a2ec6b5c4",
    "final": "46f4e475c3174c499ceb483bcfcf4568",
}
"""of jobs/quickstart.yaml, as version 0.1.0 computed them"""


def finish(job: Job) -> None:
    """Mark every stage as finished."""
    for name, fields in stage_fields(job).items():
        folder = Path(job.output) / job.name / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "critic").mkdir(exist_ok=True)
        write_done(folder, stage_hashes(job)[name], fields=fields)


def changed(study: Study, *overrides: str) -> list[str]:
    before, after = (stage_hashes(study(*more).job) for more in ((), overrides))
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("stages.rl.iterations=20", ["rl", "test"]),
        ("stages.rm.learner.learning_rate=1", ["rm", "rl", "test"]),
        ("stages.verdicts.judge.flip=0.1", ["verdicts", "rm", "rl", "test"]),
        ("stages.verdicts.flip=null", []),
        ("stages.verdicts.flip=0.1", ["verdicts", "rm", "rl", "test"]),
        ("stages.rl.algorithm.kl_coefficient=0.2", ["rl", "test"]),
        ("seed=1", ["base", "sft", "draws", "verdicts", "rm", "rl", "test"]),
        ("rollout.dtype=bfloat16", ["draws", "verdicts", "rm", "rl", "test"]),
        ("stages.rl.roles.policy={actors: 2, gpus: 1}", []),
        ("stages.rl.learner={micro_tokens: 1, zero_stage: 3, gradient_checkpointing: true}", []),
        ("rollout={engines: 3, threads: 2, engine: local}", []),
        ("cluster.call_timeout=1", []),
        ("tracking.tensorboard=true", []),
        ("stages.rl={keep: 5, checkpoint_every: 1}", []),
        ("stages.rl={max_staleness: 1, overlap: {in_flight: restart}}", ["rl", "test"]),
        ("stages.rl.guards=[{metric: kl/reference, above: 5, action: stop}]", []),
        ("stages.rm.learner.lora={rank: 4}", ["rm", "rl", "test"]),
        ("stages.rl.combine=min", ["rl", "test"]),
        ("stages.rl.reward=[{source: stage:rm, weight: 2}]", ["rl", "test"]),
        ("name=other", []),
        ("stages.draws.roles.reward={actors: 2}", []),
        ("stages.draws.best_of={n: 4, reward: someone/scorer}", ["draws", "verdicts", "rm", "rl", "test"]),
        ("stages.test.best_of.rl={n: 4, reward: stage:rm}", ["test"]),
    ],
)
def test_a_hash_covers_what_is_computed_and_nothing_else(study: Study, override: str, stages: list[str]) -> None:
    assert changed(study, override) == stages


def test_a_default_written_out_changes_nothing(study: Study) -> None:
    assert changed(study, "stages.sft.learner.clip_norm=1.0", "stages.rl.algorithm.kl_coefficient=0.1") == []


def test_a_part_of_a_reward_keeps_its_hash_from_before_parts_for_all(study: Study) -> None:
    (plain,) = stage_fields(study("stages.rl.reward=[{source: stage:rm}]").job)["rl"]["reward"]
    (marked,) = stage_fields(study("stages.rl.reward=[{source: stage:rm, for_all: true}]").job)["rl"]["reward"]
    assert "for_all" not in plain
    assert marked == {**plain, "for_all": True}


def test_a_stages_own_name_is_not_part_of_it(study: Study) -> None:
    one = stage_hashes(study().job)
    other = stage_hashes(study(renamed=(("  base:", "  ground:"), (":base", ":ground"))).job)
    assert one["base"] == other["ground"]


def test_a_stage_that_is_read_through_a_list_counts(study: Study) -> None:
    teachers = "{name: 'tests.pipeline.teachers:Taught', teachers: [{model: stage:draws}]}"
    taught = ("stages.rm.algorithm=null", f"stages.rm.algorithm={teachers}")
    before = stage_fields(study(*taught).job)["rm"]
    after = stage_fields(study(*taught, "stages.draws.count=8").job)["rm"]
    assert before["input.draws"] != after["input.draws"]


def test_the_hashes_of_a_job_stay_as_they_were() -> None:
    """Else the finished stages of every run folder out there would run again."""
    assert stage_hashes(load_job(Path(__file__).parents[2] / "jobs" / "quickstart.yaml").job) == QUICKSTART


def test_the_content_of_a_data_file_counts(study: Study, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("one")
    job = study(f"stages.sft.data.path={rows}").job
    before = stage_hashes(job)
    rows.write_text("two")
    assert stage_hashes(job)["sft"] != before["sft"]
    assert stage_hashes(job)["base"] == before["base"]


def test_the_content_of_a_file_of_preferences_counts(study: Study, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    text = "rhymes: {dimension: rhyme, pole: rhymes, wordings: [Rhyme.], criterion: which answer rhymes}\n"
    own.write_text(text)
    job = study(f"stages.draws.data.preferences={{profiles: [rhymes], file: {own}}}").job
    before = stage_hashes(job)
    own.write_text(text.replace("Rhyme.", "Write verse."))
    after = stage_hashes(job)
    assert after["draws"] != before["draws"] and after["sft"] == before["sft"]
    own.write_text(text)
    assert stage_hashes(job) == before


def test_states_name_the_reason(study: Study) -> None:
    job = study().job
    assert set(stage_states(job).values()) == {"will run: never ran"}
    finish(job)
    assert set(stage_states(job).values()) == {"finished"}
    states = stage_states(study("stages.rm.learner.learning_rate=1", "stages.rm.epochs=2").job)
    assert states["sft"] == "finished"
    assert states["rm"] == "will run: epochs, learner.learning_rate changed"
    assert states["rl"] == "will run: stage rm changed"
    assert states["test"] == "will run: stage rl changed"


def test_a_critic_that_an_earlier_version_did_not_save_is_made_again(study: Study) -> None:
    again = "stages.again={kind: train, algorithm: {name: reward}, model: stage:sft, critic: stage:rl/critic}"
    job = study(again, "stages.again.examples=stage:verdicts").job
    finish(job)
    critic = Path(job.output) / job.name / "stages" / "rl" / "critic"
    critic.rmdir()
    states = stage_states(job)
    assert {name for name, state in states.items() if state != "finished"} == {"rl"}
    assert states["rl"] == "will run: its critic is missing"
    critic.mkdir()
    assert set(stage_states(job).values()) == {"finished"}


def test_fields_survive_json(study: Study) -> None:
    fields = stage_fields(study().job)
    assert json.loads(json.dumps(fields)) == fields


def test_more_rounds_leave_the_finished_ones_as_they_are(study: Study) -> None:
    two = study(text=ROUNDS).job
    finish(two)
    assert set(stage_states(two).values()) == {"finished"}
    states = stage_states(study("stages.rounds.rounds=3", text=ROUNDS).job)
    assert {name: state for name, state in states.items() if state != "finished"} == {
        "ppo@3": "will run: never ran",
        "test": "will run: stage ppo@2, stage ppo@3, models.rl changed",
    }


def test_other_weights_in_a_model_folder_run_the_stage_again(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(8))
    override = f"stages.sft.model={folder}"
    before = stage_hashes(study(override).job)
    assert stage_hashes(study(override).job) == before
    (folder / "model.safetensors").write_bytes(bytes(16))
    after = stage_hashes(study(override).job)
    assert [name for name in before if before[name] != after[name]] == ["sft", "draws", "verdicts", "rm", "rl", "test"]


def test_sharing_devices_changes_no_hash(study: Study) -> None:
    devices = ("cluster.gpus=null", "cluster.share_devices=true", "cluster.logical_devices={count: 1, bytes: 1000}")
    assert changed(study, *devices, "rollout.gpus=1", "stages.rl.roles={policy: {gpus: 1, resident: true}}") == []
