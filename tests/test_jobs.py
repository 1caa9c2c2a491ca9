"""Every job that is shipped loads, and passes `check` where its data are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.config import EvaluateStage, GenerateStage, LoadedJob, MergeStage, TrainStage, load_job
from rayalign.config.evolve import EvolveStage
from rayalign.errors import InputError
from rayalign.pipeline.checks import check
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.plan import plan
from rayalign.pipeline.train import TrainKind

FOLDER = Path(__file__).parents[1] / "jobs"
JOBS = sorted(FOLDER.rglob("*.yaml"))


def load(path: Path, tmp_path: Path, *overrides: str) -> LoadedJob:
    return load_job(path, [f"output={tmp_path}", *overrides])


def test_there_are_jobs() -> None:
    assert FOLDER / "quickstart.yaml" in JOBS


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_job_loads_and_names_itself_as_its_file(path: Path, tmp_path: Path) -> None:
    small = "_small" if path.parent.name == "small" else ""
    assert load(path, tmp_path).job.name == path.stem + small


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_job_passes_its_check(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(FOLDER.parent)
    loaded = load(path, tmp_path)
    if loaded.job.data.format == "hh" and loaded.job.data.path is None:
        loaded = load(path, tmp_path, f"data.path={request.getfixturevalue('test_data') / 'hh-rlhf'}")
    if loaded.job.data.format == "gsm8k":
        loaded = load(path, tmp_path, f"data.path={request.getfixturevalue('test_data') / 'gsm8k'}")
    check(loaded)
    assert len(plan(loaded.job).stages) == len(loaded.job.stages)


def test_the_small_study_says_that_it_needs_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`data.path`"):
        check(load(FOLDER / "small" / "hh_rlhf.yaml", tmp_path))


def test_the_study_with_adapters_has_one_in_every_role_of_every_step(tmp_path: Path) -> None:
    stages = load(FOLDER / "small" / "hh_lora.yaml", tmp_path).job.stages
    adapters = {}
    for name in ("sft", "rm", "ppo"):
        kind = kind_of(stages[name])
        assert isinstance(kind, TrainKind)
        for role in kind.algorithm.trains:
            adapters[name, role] = kind.learner(role).lora
    assert set(adapters) == {("sft", "policy"), ("rm", "reward"), ("ppo", "policy"), ("ppo", "critic")}
    assert None not in adapters.values()


def test_the_full_study_of_rrhf_has_every_setting_of_the_paper(tmp_path: Path) -> None:
    loaded = load(FOLDER / "rrhf.yaml", tmp_path)
    drawn, rank_weights, online = set(), {}, {}
    for name, stage in loaded.job.stages.items():
        if isinstance(stage, GenerateStage):
            drawn.add(stage.sources)
        elif isinstance(stage, TrainStage) and stage.algorithm["name"] == "rrhf":
            rank_weights[name] = stage.algorithm.get("rank_weight", 1)
            online[name] = (stage.candidates, stage.algorithm.get("kl_coefficient", 0))
    assert drawn == {"BP", "SP", "D", "P", "IP"}  # the first round of IP is DP
    assert [name for name, weight in rank_weights.items() if weight == 0] == ["bp_no_rank"]
    assert {name: online[name] for name in ("op_32", "op_32_no_kl")} == {
        "op_32": ("OP-32", 0.01),
        "op_32_no_kl": ("OP-32", 0),
    }
    evaluation = loaded.job.stages["final"]
    assert isinstance(evaluation, EvaluateStage)
    trained = {f"stage:{name}" for name in rank_weights} | {"stage:ppo", "Qwen/Qwen2.5-7B-Instruct"}
    assert set(evaluation.models.values()) == trained


SOUPS = [FOLDER / "personalized_soups.yaml", FOLDER / "small" / "personalized_soups.yaml"]


@pytest.mark.parametrize("path", SOUPS, ids=["full", "small"])
def test_each_profile_is_answered_by_the_merge_of_its_preferences(path: Path, tmp_path: Path) -> None:
    stages = load(path, tmp_path).job.stages
    evaluation = stages["profiles"]
    assert isinstance(evaluation, EvaluateStage) and evaluation.by_profile is not None
    assert "psoups" in evaluation.by_profile and evaluation.data.preferences is not None
    profiles = {str(profile) for profile in evaluation.data.preferences.read_profiles()}
    for models in evaluation.by_profile.values():
        assert set(models) == profiles
        for profile, model in models.items():
            merge = stages[model.removeprefix("stage:")]
            assert isinstance(merge, MergeStage) and not merge.weights
            assert merge.models == tuple(f"stage:soup_{name}/adapter" for name in profile.split("+"))


@pytest.mark.parametrize("path", SOUPS, ids=["full", "small"])
def test_each_soup_is_trained_for_its_own_preference(path: Path, tmp_path: Path) -> None:
    stages = load(path, tmp_path).job.stages
    soups = {name.removeprefix("soup_"): stage for name, stage in stages.items() if name.startswith("soup_")}
    assert len(soups) == (6 if path.parent.name == "small" else 8)
    for preference, soup in soups.items():
        assert isinstance(soup, TrainStage) and soup.data.preferences is not None
        assert [str(profile) for profile in soup.data.preferences.read_profiles()] == [preference]
        # Without parts the reward model reads the prompt, which names this preference alone.
        named = [source.preference for source in soup.rewards if source.source == "stage:rm_criteria"]
        assert named == [preference if soup.has_parts else None]


def test_measures_are_compared_at_the_pace_of_the_study_that_uses_one(tmp_path: Path) -> None:
    paces = {}
    for name in ("eva", "eva_metrics"):
        stages = load(FOLDER / "small" / f"{name}.yaml", tmp_path).job.stages.values()
        evolving = [stage for stage in stages if isinstance(stage, EvolveStage)]
        paces[name] = {(stage.fraction, stage.evolutions, stage.base_share) for stage in evolving}
    assert paces["eva_metrics"] == paces["eva"] == {(0.25, 1, 0.75)}


def test_the_full_study_fills_eight_devices(tmp_path: Path) -> None:
    loaded = load(FOLDER / "hh_rlhf.yaml", tmp_path)
    stages = {stage.name: stage for stage in plan(loaded.job).stages}
    assert {name: stages[name].devices for name in ("sft", "rm", "ppo", "rrhf")} == dict.fromkeys(
        ("sft", "rm", "ppo", "rrhf"), 8
    )
    assert all(
        memory <= loaded.job.cluster.gpu_memory for stage in stages.values() for memory in stage.device_memory.values()
    )
