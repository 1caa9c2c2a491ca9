from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rayalign.config import LoadedJob
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.errors import InputError
from rayalign.models.load import make_preset
from rayalign.pipeline.checks import check, devices
from rayalign.pipeline.kind import kind_of
from rayalign.pipeline.machine import Machine
from rayalign.pipeline.plan import plan
from tests.pipeline.conftest import ROUNDS

Study = Callable[..., LoadedJob]


def refusal(study: Study, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as error:
        check(study(*overrides))
    return str(error.value).splitlines()


def test_a_sound_study_passes(study: Study) -> None:
    check(study())


MIX = "{algorithm: {name: %s}, data: {format: %s}}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            f"stages.sft.mix={MIX % ('sft', 'paddock')}",
            "stages.sft.mix: only an online stage mixes a second objective in; add candidates, or leave it out",
        ),
        (
            f"stages.rl.mix={MIX % ('sfd', 'paddock')}",
            "stages.rl.mix.algorithm: algorithm 'sfd' is not known; did you mean sft?",
        ),
        (
            f"stages.rl.mix={MIX % ('dpo', 'paddock')}",
            "stages.rl.mix.algorithm: dpo needs more than the tokens of one answer; take one that does not, like sft",
        ),
        (
            f"stages.rl.mix={MIX % ('sft', 'hh')}",
            "stages.rl.mix.data: data format 'hh' reads files: name a file or folder as `data.path`",
        ),
        (
            "stages.test.models.rl=stage:rl/ema",
            "stages.test.models.rl: stage rl makes no ema; it makes: policy, critic",
        ),
    ],
)
def test_a_second_objective_and_an_average_are_checked(study: Study, override: str, message: str) -> None:
    assert [line.split(": ", 1)[1] for line in refusal(study, override)] == [message]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("draws.sources=[{source: stage:nothing}]", "sources.0.source: there is no stage 'nothing'"),
        ("draws.sources=[{examples: stage:sft}]", "sources.0.examples: stage:sft makes a language model; expected"),
        (
            "draws.sources=[{source: a, examples: stage:sft}]",
            "sources.0: set only one of source, examples",
        ),
        ("draws.sources=[{last: true}]", "sources.0.last: is for answers that are there; leave it out"),
        ("draws.sampling.beams={width: 3}", "sampling: 4 candidates of a beam search of width 3; raise beams.width"),
        ("draws.sampling={beams: {width: 4}, top_k: 3}", "sampling: a beam search takes the likeliest tokens anyway"),
        ("draws.sources=[{sampling: {beams: {width: 2}}}]", "sources.0: 4 candidates of a beam search of width 2"),
        (
            "draws={sampling: {beams: {width: 2}}, sources: [{count: 3}]}",
            "sources.0: 3 candidates of a beam search of width 2",
        ),
        (
            "draws={sampling: {beams: {width: 4}}, count: 1, best_of: {n: 8, reward: 'rules:numeric'}}",
            "sampling: 8 candidates of a beam search of width 4",
        ),
        (
            "draws={environment: single_turn, sources: [{count: 3}]}",
            "sources: an environment is for candidates of one model; leave sources out",
        ),
        (
            "draws={sampling: {top_k: 3}, sources: [{endpoint: {model: m, base_url: 'http://a'}}]}",
            "sources.0.endpoint: an endpoint takes neither beams nor top_k",
        ),
        ("draws={sources: DP, best_of: {n: 3, reward: 'rules:numeric'}}", "best_of.n: the sources give 6 candidates"),
        (
            "draws.sources=[{endpoint: {model: m, base_url: 'http://a', key_variable: NO_SUCH_KEY}}]",
            "sources.0.endpoint.key_variable: the environment variable NO_SUCH_KEY holds no key",
        ),
        ("test={sampling: {beams: {width: 4}}, best_of: {rl: {n: 8, reward: 'rules:numeric'}}}", "sampling: 8 candid"),
        ("sft.algorithm={name: online_dpo}", "candidates: online_dpo trains on what the policy writes"),
        ("rl.candidates=[{source: live, sampling: {top_k: 3}}]", "candidates.0.sampling: training needs the log-probs"),
        ("rl.sampling.beams={width: 4}", "sampling: training needs the log-probs"),
        ("rl.candidates=[{source: live}, {source: dataset, sampling: {top_k: 3}}]", "candidates.1.sampling: the data"),
    ],
)
def test_sources_of_candidates_are_checked(study: Study, override: str, message: str) -> None:
    lines = [line.split(": ", 1)[1] for line in refusal(study, f"stages.{override}")]
    stage = override.split(".")[0].split("=")[0]
    assert any(line.startswith(f"stages.{stage}.{message}") for line in lines), lines


@pytest.mark.parametrize("mixture", ["BP", "DP", "SP", "D", "P", "IP"])
def test_a_mixture_of_rrhf_is_named(study: Study, mixture: str) -> None:
    check(study(f"stages.draws.sources={mixture}"))


ONLINE = ("stages.rl.algorithm={name: rrhf, kl_coefficient: 0.01}", "stages.rl.learner.minibatch=24")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("candidates=OP-0", "candidates is 'OP-0': expected a list, or OP-k or OD-k"),
        ("candidates=DP-3", "candidates is 'DP-3': expected a list, or OP-k or OD-k"),
        ("candidates=OP-2", "prompts: 32 prompts x 6 candidates / minibatch 24 are 8 optimizer steps between two sets"),
        ("candidates=OD-3", "prompts: 32 prompts x 4 candidates / minibatch 24 are 5.333 optimizer steps between two"),
        ("candidates=OP-8 algorithm.epochs=2", "algorithm: OP-8 counts the steps of one pass over the answers; take"),
    ],
)
def test_an_online_setting_of_rrhf_has_its_steps(study: Study, override: str, message: str) -> None:
    overrides = [f"stages.rl.{text}" for text in override.split(" ")]
    lines = [line.split(": ", 1)[1] for line in refusal(study, *ONLINE, *overrides)]
    assert any(line.startswith(f"stages.rl.{message}") for line in lines), lines


@pytest.mark.parametrize(("setting", "prompts"), [("OP-8", 32), ("OD-2", 12)])
def test_an_online_setting_of_rrhf_is_named(study: Study, setting: str, prompts: int) -> None:
    check(study(*ONLINE, f"stages.rl.candidates={setting}", f"stages.rl.prompts={prompts}"))


def test_rrhf_learns_online_from_any_sampler(study: Study) -> None:
    check(
        study(
            "stages.rl.algorithm={name: rrhf}",
            "stages.rl.candidates=[{source: live, count: 2, sampling: {beams: {width: 2}}}, {source: live, count: 2}]",
        )
    )


def test_a_second_objective_is_guarded_and_an_average_is_read(study: Study) -> None:
    check(
        study(
            f"stages.rl.mix={MIX % ('sft', 'paddock')}",
            "stages.rl.guards=[{metric: mixture/sft, above: 9.0}]",
            "stages.rl.learner.ema=0.9",
            "stages.test.models.rl=stage:rl/ema",
        )
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.sft.model=stage:bas", "stages.sft.model: there is no stage 'bas'; did you mean base?"),
        ("stages.sft.model=stage:rl", "stages.sft.model: stage 'rl' does not come before stage 'sft'; put it above"),
        (
            "stages.rl.reward=stage:sft",
            "stages.rl.reward: stage:sft makes a language model; expected a stage that makes a reward model",
        ),
        (
            "stages.rm.examples=stage:sft",
            "stages.rm.examples: stage:sft makes a language model; expected a stage that makes comparisons "
            "or scored candidates",
        ),
        (
            "stages.test.models.rm=stage:rm",
            "stages.test.models.rm: stage:rm makes a reward model; expected a stage that makes a language model",
        ),
        ("stages.sft.model=stage:base/critic", "stages.sft.model: stage base makes no critic; write stage:base"),
        (
            "stages.test.models.rl=stage:rl/critc",
            "stages.test.models.rl: stage rl makes no critc; did you mean critic?",
        ),
        (
            "stages.test.models.rl=stage:rl/critic",
            "stages.test.models.rl: stage:rl/critic makes a critic; expected a stage that makes a language model",
        ),
        (
            "stages.rl.reward=[{source: stage:sft}]",
            "stages.rl.reward.0.source: stage:sft makes a language model; expected a stage that makes a reward model",
        ),
        (
            "stages.rl.reward=[{source: stage:rm}, {source: 'annotator:gould'}]",
            "stages.rl.reward.1.source: there is no annotator 'gould'; did you mean gold?",
        ),
        (
            "stages.rl.reward=[{source: stage:rm, name: std}]",
            "stages.rl.reward.0: reward/std is another metric; give this part another name",
        ),
        (
            "stages.rl.reward='json:lods'",
            "stages.rl.reward: json:lods cannot be imported (module 'json' has no attribute 'lods'); "
            "write it as package.module:name",
        ),
        (
            "stages.test.reward='annotator:gould'",
            "stages.test.reward: there is no annotator 'gould'; did you mean gold?",
        ),
        ("stages.rl.reward=null", "stages.rl.reward: ppo needs a reward model; name a stage or a folder"),
        (
            "stages.rl.algorithm.kl_coeficient=1",
            "stages.rl.algorithm: algorithm ppo: kl_coeficient is not known; did you mean kl_coefficient?",
        ),
        ("stages.sft.algorithm.name=stf", "stages.sft.algorithm: algorithm 'stf' is not known; did you mean sft?"),
        ("stages.sft.roles.critic={}", "stages.sft.roles.critic: sft runs no critic; its roles: policy"),
        (
            "stages.rl.prompts=30",
            "stages.rl.learner.minibatch: indivisible batch: 30 prompts x 4 candidates = 120 samples, "
            "which is 1.88 minibatches of 64; take minibatch 60, or prompts 16 or 32",
        ),
        (
            "stages.sft.roles.policy.actors=3",
            "stages.sft.learner.minibatch: indivisible batch: 64 is not a multiple of "
            "3 ranks x 1 samples that stay together = 3; take 63 or 66",
        ),
        (
            "stages.draws.sampling.max_tokens=128",
            "stages.draws.sampling.max_tokens: 128 tokens leave no room for a prompt in rollout.context 128",
        ),
        (
            "stages.rl.guards=[{metric: kl/refrence, above: 1}]",
            "stages.rl.guards.0.metric: 'kl/refrence' is not a metric; did you mean kl/reference?",
        ),
        (
            "stages.rl.guards=[{metric: reward/mean}]",
            "stages.rl.guards.0: a guard needs a limit; give above or below",
        ),
        (
            "stages.rl.guards=[{metric: reward/mean, above: 1, action: stop, rate: 0.5}]",
            "stages.rl.guards.0.rate: only a rollback changes the learning rate; set action: rollback, or remove it",
        ),
        (
            "stages.base.model=preset:nan",
            "stages.base.model: there is no preset 'preset:nan'; did you mean preset:nano?",
        ),
        (
            "stages.sft.model=preset:nano",
            "stages.sft.model: preset:nano is no trained model; add a pretrain stage that starts from it, and name "
            "that stage here",
        ),
        (
            "stages.base.model=stage:base",
            "stages.base.model: stage:base is not a preset; this stage makes its model from one of preset:pico, "
            "preset:nano, preset:tiny, preset:small",
        ),
        (
            "stages.test.against=[stf]",
            "stages.test.against: 'stf' is neither in models nor in baselines; did you mean sft?",
        ),
        (
            "stages.test.models={sft@1: stage:sft}",
            "stages.test.models: 'sft@1' holds an @, which stands before a profile in the results; name it otherwise",
        ),
        (
            "stages.test.metric=reward",
            "stages.test.reward: the metric reward needs what scores; "
            "name a stage, a folder, annotator:NAME or rules:KIND",
        ),
        (
            "stages.sft.data.format=papdock",
            "stages.sft.data: data format 'papdock' is not known; did you mean paddock?",
        ),
        (
            "stages.rm.model=./none",
            "stages.rm.model: none holds no model: there is no config.json; give a folder written by save_pretrained",
        ),
    ],
)
def test_each_problem_is_one_line_with_its_remedy(study: Study, override: str, message: str) -> None:
    assert message in [line.partition(": ")[2] for line in refusal(study, override)]


@pytest.mark.parametrize("stage", ["dpo", "rl"])
@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./none", "none holds no model: there is no config.json; give a folder written by save_pretrained"),
        ("stage:nothing", "there is no stage 'nothing'"),
        ("stage:rm", "stage:rm makes a reward model; expected a stage that makes a language model"),
    ],
)
def test_a_missing_reference_is_named(study: Study, stage: str, reference: str, message: str) -> None:
    dpo = "stages.dpo={kind: train, algorithm: {name: dpo}, model: stage:sft, examples: stage:verdicts}"
    check(study(dpo))
    lines = refusal(study, dpo, f"stages.{stage}.reference={reference}")
    assert any(f"stages.{stage}.reference: {message}" in line for line in lines)


BEST = "stages.draws.best_of={n: 4, reward: someone/scorer}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.draws.best_of={n: 4, reward: stage:sft}",
            "stages.draws.best_of.reward: stage:sft makes a language model; expected a stage that makes a reward model "
            "or a pairwise reward model",
        ),
        (
            "stages.test.best_of.rl={n: 4, reward: 'annotator:gould'}",
            "stages.test.best_of.rl.reward: there is no annotator 'gould'; did you mean gold?",
        ),
        (
            "stages.draws.best_of={n: 4, reward: 'annotator:gould'}",
            "stages.draws.best_of.reward: there is no annotator 'gould'; did you mean gold?",
        ),
        (
            "stages.test.best_of.rl={n: 4, reward: 'json:lods'}",
            "stages.test.best_of.rl.reward: json:lods cannot be imported (module 'json' has no attribute 'lods'); "
            "write it as package.module:name",
        ),
        (
            "stages.test.best_of.rll={n: 4, reward: stage:rm}",
            "stages.test.best_of.rll: there is no such model in models; did you mean rl?",
        ),
        (
            "stages.draws.best_of={n: 4, reward: 'json:lods'}",
            "stages.draws.best_of.reward: json:lods cannot be imported (module 'json' has no attribute 'lods'); "
            "write it as package.module:name",
        ),
    ],
)
def test_what_chooses_among_candidates_is_checked_as_a_reward(study: Study, override: str, message: str) -> None:
    assert message in [line.partition(": ")[2] for line in refusal(study, override)]


PREFERENCES = "stages.rl.data.preferences={profiles: [P1A, P2B]}"
NAMED_PARTS = "{source: stage:rm, preference: P1A}, {source: stage:rm, preference: P2B}"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            f"{NAMED_PARTS}, stage:rm",
            "stages.rl.reward.2: no profile of data.preferences names rm, so this part would never count; "
            "set for_all: true, or leave it out",
        ),
        (
            "{source: stage:rm, preference: P1A}, {source: stage:rm, for_all: true}",
            "stages.rl.reward: the prompts name P2B, but the reward has no part of that name; add it",
        ),
    ],
)
def test_a_part_of_the_reward_that_would_never_count_is_refused(study: Study, parts: str, message: str) -> None:
    refused = refusal(study, PREFERENCES, f"stages.rl.reward=[{parts}]")
    assert message in [line.partition(": ")[2] for line in refused]


def test_a_part_of_the_reward_counts_by_its_name_or_for_all_prompts(study: Study) -> None:
    check(study(PREFERENCES, f"stages.rl.reward=[{NAMED_PARTS}, {{source: stage:rm, for_all: true}}]"))
    check(study(PREFERENCES, "stages.rl.reward=[{source: stage:rm, name: P1A}, {source: 'rules:length', name: P2B}]"))


def test_every_candidate_is_an_answer_that_is_written(study: Study) -> None:
    def written(*overrides: str) -> list[int | None]:
        stages = study(*overrides).job.stages
        return [kind_of(stages[name]).answers(10) for name in ("draws", "test")]

    assert written() == [40, 20]
    assert written(BEST, "stages.draws.count=2", "stages.test.best_of.rl={n: 8, reward: stage:rm}") == [80, 90]
    assert written("stages.draws.sources=DP") == [60, 20]


def test_the_answers_of_best_of_n_are_candidates_and_all_that_was_drawn_is_scored(study: Study) -> None:
    check(study(BEST, "stages.sft_2={kind: train, algorithm: {name: sft}, model: stage:base, examples: stage:draws}"))
    check(study(BEST, "stages.rm.examples=stage:draws/drawn", "stages.rm.learner.minibatch=64"))
    check(study(BEST, "stages.rm.examples=stage:draws/extremes", "stages.rm.learner.minibatch=64"))
    assert "draws makes no drawn" in refusal(study, "stages.rm.examples=stage:draws/drawn")[0]


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_prompts_are_drawn_by_priority_where_rewards_are_live(study: Study, stage: str) -> None:
    override = f"stages.{stage}.priority={{metric: dueling}}"
    if stage == "rl":
        check(study(override))
        check(study(override, "stages.rl.algorithm=null", "stages.rl.algorithm={name: rloo}"))
    else:
        assert "only an online stage draws its prompts as it learns" in refusal(study, override)[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.test.data.path=stage:sft", "test.data.path: stage:sft makes a language model; expected a"),
        ("stages.draws.data.path=stage:test", "draws.data.path: stage 'test' does not come before stage 'draws'"),
        ("stages.rl.data.path=stage:nothing", "stages.rl.data.path: there is no stage 'nothing'"),
        ("stages.sft.data.path=stage:base", "sft.data.path: a stage gives prompts alone, for `data` that"),
    ],
)
def test_prompts_come_from_an_earlier_stage_that_has_some(study: Study, override: str, message: str) -> None:
    check(study("stages.rl.data.path=stage:draws"))
    check(study("stages.rl.data.blend=[{format: records, path: stage:draws}, {format: paddock, limit: 5}]"))
    assert any(message in line for line in refusal(study, override))


@pytest.mark.parametrize("answers", ["chosen", "conditioned"])
def test_only_what_learns_single_answers_offline_takes_them_from_pairs(study: Study, answers: str) -> None:
    fine = f"{{kind: train, algorithm: {{name: sft}}, model: stage:base, examples: stage:verdicts, answers: {answers}}}"
    check(study(f"stages.feedme={fine}"))
    for stage, name in (("rl", "ppo"), ("rm", "reward")):
        message = f"only an offline algorithm of single answers, such as sft, takes them; {name} needs none"
        assert message in refusal(study, f"stages.{stage}.answers={answers}")[0]


def test_pairs_have_verdicts(study: Study) -> None:
    feedme = "{kind: train, algorithm: {name: sft}, model: stage:base, examples: stage:draws, answers: chosen}"
    assert "stage:draws makes candidates" in refusal(study, f"stages.feedme={feedme}")[0]


QUARK = "stages.rl.algorithm={name: quark, kl_coefficient: 0.1}"


def test_an_exact_divergence_keeps_the_reference_in_the_ranks_of_the_policy(study: Study) -> None:
    loaded = study(QUARK)
    check(loaded)
    within = {need.role: need.within for need in kind_of(loaded.job.stages["rl"]).roles(loaded.job)}
    assert within == {"policy": None, "reference": "policy", "reward": None, "generator": None}
    assert "whose KL is exact, runs its reference" in refusal(study, QUARK, "stages.rl.roles.reference={}")[0]
    assert "which stage 3 splits" in refusal(study, QUARK, "stages.rl.learner.zero_stage=3")[0]
    assert "trains on what the policy writes" in refusal(study, QUARK, "stages.rl.candidates=[]")[0]
    shared = (
        "cluster={gpus: 1, share_devices: true}",
        "rollout={engines: 1, gpus: 1}",
        "stages.rl.roles.policy.gpus=1",
    )
    assert any("cannot leave a shared device" in line for line in refusal(study, QUARK, *shared))


def test_a_reference_in_a_list_has_to_be_an_earlier_stage_too(study: Study) -> None:
    teachers = "stages.rm.algorithm={name: 'tests.pipeline.teachers:Taught', teachers: [{model: stage:vanished}]}"
    (line,) = refusal(study, "stages.rm.algorithm=null", teachers)
    assert "stages.rm.algorithm.teachers.0.model: there is no stage 'vanished'" in line


def test_a_training_goes_on_with_the_critic_of_an_earlier_one(study: Study) -> None:
    again = "stages.again={kind: train, algorithm: {name: ppo}, model: stage:rl/policy, critic: stage:rl/critic}"
    more = ("stages.again.reward=stage:rm", "stages.again.candidates=[{source: live, count: 2}]")
    loaded = study(again, *more)
    check(loaded)
    (stage,) = [stage for stage in plan(loaded.job).stages if stage.name == "again"]
    (critic,) = [role for role in stage.roles if role.role == "critic"]
    assert (critic.model, critic.parameters) == ("stage:rl/critic", 984_192)


def test_a_job_of_two_rounds_is_checked_and_planned_as_its_stages(study: Study) -> None:
    loaded = study(text=ROUNDS)
    check(loaded)
    stages = {stage.name: stage for stage in plan(loaded.job).stages}
    assert list(stages) == ["sft", "ppo@1", "ppo@2", "test"]
    models = {name: {role.role: role.model for role in stages[name].roles} for name in ("ppo@1", "ppo@2")}
    assert models["ppo@1"]["policy"] == models["ppo@1"]["reference"] == "stage:sft"
    assert models["ppo@1"]["critic"] == "someone/scorer"
    assert models["ppo@2"]["policy"] == models["ppo@2"]["reference"] == "stage:ppo@1"
    assert models["ppo@2"]["critic"] == "stage:ppo@1/critic"


def test_what_is_wrong_in_every_round_is_reported_once(study: Study) -> None:
    with pytest.raises(InputError) as error:
        check(study("stages.rounds.stages.ppo.prompts=30", text=ROUNDS))
    (line,) = str(error.value).splitlines()
    assert "stages.ppo@1.learner.minibatch: indivisible batch: 30 prompts" in line


def test_a_problem_names_where_it_was_written(study: Study) -> None:
    assert "/job.yaml:17: stages.rl.learner.minibatch: " in refusal(study, "stages.rl.prompts=30")[0]
    assert refusal(study, "stages.rl.learner.minibatch=50")[0].startswith("command line: stages.rl.learner.minibatch: ")


@pytest.mark.parametrize(
    ("algorithm", "metric"),
    [
        ("{name: ppo}", "learner/grad_norm"),
        ("{name: ppo}", "publish/probe_gap"),
        ("{name: ppo}", "phase/generate"),
        ("{name: ppo}", "critic/explained_variance"),
        ("{name: rrhf}", "rrhf/violations"),
        ("{name: rrhf}", "reward/max"),
    ],
)
def test_a_guard_watches_what_the_algorithm_or_the_loop_reports(study: Study, algorithm: str, metric: str) -> None:
    check(study(f"stages.rl.algorithm={algorithm}", f"stages.rl.guards=[{{metric: {metric}, above: 1}}]"))


@pytest.mark.parametrize("metric", ["eval/reward/accuracy", "eval/loss", "phase/update"])
def test_a_guard_watches_what_the_offline_loop_measures(study: Study, metric: str) -> None:
    check(study(f"stages.rm.guards=[{{metric: {metric}, above: 1}}]"))


def test_a_method_that_compares_needs_two_candidates(study: Study) -> None:
    alone = ("stages.rl.algorithm={name: grpo}", "stages.rl.candidates=[{source: live, count: 1}]")
    (line,) = refusal(study, *alone, "stages.rl.learner.minibatch=32")
    assert line.endswith("stages.rl.candidates: grpo compares the answers to a prompt; write 2 or more of them")


def test_a_guard_watches_each_part_of_the_reward(study: Study) -> None:
    parts = "stages.rl.reward=[stage:rm, {rules: {kind: length, high: 40}, name: brief}]"
    check(study(parts, "stages.rl.guards=[{metric: reward/brief, below: 0.5}, {metric: reward/rm, above: 9}]"))
    message = "'reward/long' is not a metric"
    assert any(message in line for line in refusal(study, parts, "stages.rl.guards=[{metric: reward/long, above: 1}]"))


def test_a_guard_on_a_metric_that_nobody_reports_is_refused(study: Study) -> None:
    guard = "stages.rl.guards=[{metric: kl/reference, above: 1}]"
    found = refusal(study, "stages.rl.algorithm.kl_coefficient=0", guard)
    assert "stages.rl.guards.0.metric: 'kl/reference' is not a metric; " in found[0]


@pytest.mark.parametrize("setting", ["top_p=0.9", "top_k=20", "temperature=0"])
def test_cut_distributions_are_refused_for_training_only(study: Study, setting: str) -> None:
    assert "log-probs of the distribution that was sampled from" in refusal(study, f"stages.rl.sampling.{setting}")[0]
    check(study(f"stages.draws.sampling.{setting}"))


def test_an_online_algorithm_needs_live_candidates(study: Study) -> None:
    found = refusal(study, "stages.rl.candidates=[]")
    assert any("stages.rl.candidates: ppo trains on what the policy writes" in line for line in found)


RANKED = "stages.rl.examples=stage:verdicts"
DPO = "stages.dpo={kind: train, algorithm: {name: dpo}, model: stage:sft, examples: stage:verdicts}"


def test_an_offline_stage_runs_its_reference_in_the_ranks_of_its_learner(study: Study) -> None:
    check(study("stages.rl.algorithm={name: rrhf, kl_coefficient: 0.1}", "stages.rl.candidates=[]", RANKED))
    check(study(DPO))
    found = refusal(study, DPO, "stages.dpo.roles={reference: {actors: 2}}")
    assert "stages.dpo.roles.reference: an offline stage runs its reference in the ranks of its learner" in found[0]


def test_pairs_are_whole_and_were_compared_before(study: Study) -> None:
    found = refusal(study, DPO, "stages.dpo.examples=stage:draws", "stages.dpo.learner.minibatch=33")
    assert "stages.dpo.examples: stage:draws makes candidates; expected a stage that makes comparisons or" in found[0]
    assert any("33 is not a multiple of 1 ranks x 2 samples that stay together = 2" in line for line in found)
    found = refusal(study, DPO, "stages.dpo.candidates=[{source: live, count: 2}]")
    assert any("stages.dpo.candidates: dpo learns from pairs that were compared before" in line for line in found)


def test_single_answers_were_judged_before(study: Study) -> None:
    kto = "stages.kto={kind: train, algorithm: {name: kto}, model: stage:sft, examples: stage:verdicts}"
    check(study(kto))
    found = refusal(study, kto, "stages.kto.candidates=[{source: live, count: 2}]")
    assert any("stages.kto.candidates: kto learns from answers that were judged before" in line for line in found)
    found = refusal(study, kto, "stages.kto.examples=null")
    assert any("paddock has no ready comparisons" in line for line in found)


def test_answers_without_a_score_are_nothing_to_rank(study: Study) -> None:
    found = refusal(study, "stages.rm.examples=stage:draws")
    assert "stages.rm.examples: stage:draws makes candidates; expected a stage that makes comparisons or" in found[0]
    check(study("stages.sft2={kind: train, algorithm: {name: sft}, model: stage:sft, examples: stage:draws}"))


def test_an_online_stage_reads_no_examples(study: Study) -> None:
    found = refusal(study, "stages.rl.examples=stage:verdicts")
    assert "stages.rl.examples: an online stage takes its prompts from data" in found[0]


def test_the_pool_keeps_its_devices_from_its_first_stage_on(study: Study) -> None:
    later = "stages.last={kind: train, algorithm: {name: sft}, model: stage:sft, roles: {policy: {actors: 2, gpus: 1}}}"
    assert "stages.last.roles: asks for 4 devices" in refusal(study, "rollout.gpus=1", "cluster.gpus=3", later)[0]
    check(study("rollout.gpus=1", "cluster.gpus=4", later))


def test_devices_and_cpus_are_counted(study: Study) -> None:
    asked = ("rollout.gpus=1", "stages.rl.roles.policy.gpus=1")
    assert refusal(study, "cluster.gpus=2", *asked) == [
        "command line: stages.rl.roles: asks for 3 devices (policy 1 x 1, generator 2 x 1), but there are 2; ask for "
        "fewer, share them by fractions, or try it in small on this machine with `rayalign rehearse`"
    ]
    check(study("cluster.gpus=3", *asked))
    assert "asks for 6 cpus (generator 2 x 3), but there are 4" in refusal(study, "rollout.cpus=3")[0]


SHARED = (
    "cluster.gpus=null",
    "cluster.share_devices=true",
    "cluster.logical_devices={count: 1, bytes: 200000000}",
    "rollout={gpus: 1, engines: 1, cache_bytes: 1000000}",
    "stages.rl.roles={policy: {gpus: 0.5}, critic: {gpus: 0.5}}",
    "stages.rl.learner.micro_tokens=512",
)


def test_a_stage_may_share_one_device_with_its_engines(study: Study) -> None:
    check(study(*SHARED))


def test_a_shared_device_that_is_too_small_for_one_side_is_refused(study: Study) -> None:
    learners = refusal(study, *SHARED, "cluster.logical_devices.bytes=30000000")
    assert len(learners) == 1
    assert learners[0] == (
        "command line: stages.rl.roles: in the training turn gpu:0 must hold 64 MiB (policy 32 MiB, critic 32 MiB), "
        "but it has 29 MiB; use more devices, or smaller models, micro_tokens or rollout.cache_bytes"
    )
    engines = refusal(study, *SHARED, "rollout.cache_bytes=200000000")
    assert all("in the rollout turn gpu:0 must hold 194 MiB (generator 194 MiB)" in line for line in engines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.rl.max_staleness=1", "stages.rl.max_staleness: 1 overlaps writing with updates, which cannot share"),
        ("rollout.gpus=0", "rollout.gpus: engines that share devices use some; write 1"),
        ("cluster.gpus=2", "cluster.gpus: cluster.logical_devices says how many there are; leave this out"),
    ],
)
def test_what_cannot_share_devices_is_refused(study: Study, override: str, message: str) -> None:
    assert any(message in line for line in refusal(study, *SHARED, override))


def test_the_pool_keeps_the_cores_that_it_names(study: Study) -> None:
    later = "stages.last={kind: train, algorithm: {name: sft}, model: stage:sft, roles: {policy: {cpus: 3}}}"
    check(study(later))
    assert "asks for 5 cpus (policy 1 x 3, generator 2 x 1)" in refusal(study, "rollout.cpus=1", later)[0]


def test_a_cluster_is_held_against_the_plan_as_a_machine_is(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    loaded = study("rollout.gpus=1", "stages.rl.roles.policy.gpus=1", "rollout.cpus=2")
    check(loaded)

    def lacking(machine: Machine) -> list[tuple[str, str]]:
        return list(devices(plan(loaded.job, machine), machine, remedy="add machines"))

    ((key, text),) = lacking(Machine(16.0, 2, 0, 0))
    assert key == "stages.rl.roles"
    assert text == (
        "asks for 3 devices (policy 1 x 1, generator 2 x 1), but there are 2; ask for fewer, share them by fractions, "
        "or add machines"
    )
    assert not lacking(Machine(16.0, 3, 0, 0))
    assert {key for key, _ in lacking(Machine(2.0, 3, 0, 0))} >= {"stages.draws.roles", "stages.rl.roles"}


def test_a_folder_needs_a_chat_template(study: Study, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    wanted = f"stages.sft.model={model}"
    assert "model without chat template" in refusal(study, wanted)[0]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    check(study(wanted))
    (model / "tokenizer_config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    check(study(wanted))


def test_a_damaged_model_folder_is_refused_with_its_key(study: Study, tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_preset("nano", build_tokenizer(), 0, model)
    check(study(f"stages.sft.model={model}"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    (line,) = refusal(study, f"stages.sft.model={model}")
    assert re.search(r"stages\.sft\.model: model .*model\.safetensors is cut short: it has 100000 of \d+ bytes", line)


PAIRWISE = "stages.rm.algorithm={name: pairwise_reward}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), None),  # as rewards of a policy that writes several answers
        (
            ("stages.rl.candidates=[{source: live, count: 1}]",),
            "stages.rl.reward: stage:rm makes a pairwise reward model",
        ),
        (
            ("stages.rl.algorithm={name: ppo}",),
            "stages.rl.reward: stage:rm makes a pairwise reward model; expected a stage",
        ),
        (("stages.rl.algorithm={name: ppo}", "stages.rl.critic=stage:sft"), None),
        (("stages.test.best_of.rl={n: 4, reward: stage:rm}",), None),
        (("stages.test.best_of.rl={n: 4, reward: [stage:rm, 'rules:majority']}",), None),
        (("stages.test.best_of.rl={n: 4, reward: 'annotator:careful'}",), None),  # who compares and does not score
        (("stages.rl.reward='annotator:pool'",), None),
        (
            ("stages.rl.reward='annotator:careful'", "stages.rl.candidates=[{source: live, count: 1}]"),
            "stages.rl.reward: annotator careful compares answers and scores none; those that score: gold",
        ),
        (("stages.again={kind: annotate, examples: stage:draws, pairwise: stage:rm}",), None),
        (
            ("stages.again={kind: annotate, examples: stage:draws, pairwise: stage:sft}",),
            "stages.again.pairwise: stage:sft makes a language model; expected a stage that makes a pairwise",
        ),
        (
            ("stages.again={kind: annotate, examples: stage:draws, pairwise: stage:rm, annotator: gold}",),
            "stages.again.pairwise: the annotator compares these answers; leave one of the two out",
        ),
        (("stages.test.metric=reward", "stages.test.reward=stage:rm"), "stages.test.reward: stage:rm makes a pairwise"),
    ],
)
def test_a_pairwise_reward_stands_where_answers_are_compared(
    study: Study, overrides: tuple[str, ...], message: str | None
) -> None:
    policy = ("stages.rl.algorithm=null", "stages.rl.algorithm={name: grpo}")
    changes = ("stages.rm.algorithm=null", PAIRWISE, *policy, *overrides)
    if message is None:
        check(study(*changes))
    else:
        assert any(message in line for line in refusal(study, *changes))


def test_a_folder_says_whether_it_holds_a_pairwise_reward(study: Study, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "chat_template.jinja").write_text("{{ messages }}")
    (model / "config.json").write_text(json.dumps({"reads_pairs": True}))
    lines = refusal(study, f"stages.rl.reward={model}")
    assert f"{model} holds a pairwise reward model; expected a reward model" in lines[0]


def test_what_is_deterministic_does_not_overlap(study: Study) -> None:
    found = refusal(study, "stages.rl.deterministic=true", "stages.rl.max_staleness=1")
    assert "stages.rl.max_staleness: 1 overlaps writing with updates" in found[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("deterministic=true", "overlap={extra_prompts: 2}"),
            "overlap.extra_prompts: 2 makes an iteration of what is finished first, which deterministic: true forbids",
        ),
        (("overlap={old_policy: behaviour}",), "overlap.old_policy: no answer is stale with max_staleness 0"),
        (("overlap={in_flight: restart}",), "overlap.in_flight: nothing is in flight when weights come with max_stal"),
        (
            ("overlap={in_flight: wait}",),
            "overlap.in_flight: nothing is in flight when weights come with max_staleness 0",
        ),
        (("overlap={tail: later, extra_prompts: 2}",), "overlap.tail: later makes answers a version older"),
        (
            ("max_staleness=1", "overlap={tail: later}"),
            "overlap.extra_prompts: a tail for later has 1 to 32 prompts, as many as an iteration at most; 0 are set",
        ),
        (("max_staleness=1", "overlap={tail: later, extra_prompts: 33}"), "at most; 33 are set"),
    ],
)
def test_an_overlap_that_cannot_be_is_refused_in_one_sentence(
    study: Study, overrides: tuple[str, ...], message: str
) -> None:
    (line,) = refusal(study, *(f"stages.rl.{override}" for override in overrides))
    assert message in line


def test_an_old_policy_needs_an_algorithm_that_compares_policies(study: Study) -> None:
    stale = ("max_staleness=1", "overlap={old_policy: behaviour}", "algorithm={name: rrhf}")
    found = refusal(study, *(f"stages.rl.{override}" for override in stale))
    assert any("overlap.old_policy: rrhf has no ratio of policies" in line for line in found)


def test_a_temperature_that_vllm_refuses_is_refused_in_the_job(study: Study) -> None:
    with pytest.raises(InputError, match=r"stages\.rl.*temperature.* less than or equal to 2"):
        study("stages.rl.sampling.temperature=2.5")


def test_only_an_offline_stage_goes_on_with_fewer_ranks(study: Study) -> None:
    ranks = "{actors: 2, min_actors: 1}"
    check(study(f"stages.rm.roles.reward={ranks}"))
    (line,) = refusal(study, f"stages.rl.roles.policy={ranks}")
    assert "stages.rl.roles.policy.min_actors: only a role trained offline goes on with fewer ranks" in line
    with pytest.raises(InputError, match=r"min_actors 3 is above actors 2; lower it"):
        study("stages.rm.roles.reward={actors: 2, min_actors: 3}")


def test_only_a_frozen_model_is_spread_over_actors_of_its_own(study: Study) -> None:
    spread = "{actors: 2, spread: true}"
    check(study(f"stages.rl.roles.reference={spread}", f"stages.rl.roles.reward={spread}"))
    (line,) = refusal(study, f"stages.rl.roles.critic={spread}")
    assert "stages.rl.roles.critic.spread: a trained role lies in parts by its learner's zero_stage: 3" in line
    rules = "stages.rl.reward=[{source: stage:rm}, {source: rules:numeric}]"
    (line,) = refusal(study, rules, f"stages.rl.roles.reward={spread}")
    assert (
        "stages.rl.roles.reward.spread: every actor would request the parts of the reward that are not models" in line
    )
    with pytest.raises(InputError, match=r"spread needs actors: 2 or more, which hold the model in parts"):
        study("stages.rl.roles.reward={spread: true}")


def test_a_reference_may_run_in_the_ranks_of_the_policy(study: Study) -> None:
    loaded = study("stages.rl.roles.reference={within: policy}")
    check(loaded)
    within = {need.role: need.within for need in kind_of(loaded.job.stages["rl"]).roles(loaded.job)}
    assert (within["reference"], within["reward"]) == ("policy", None)
    (line,) = refusal(study, "stages.rl.roles.critic={within: policy}")
    assert "stages.rl.roles.critic.within: only a reference runs in the ranks of the policy" in line
    with pytest.raises(InputError, match=r"within policy leaves no actors of its own; leave out actors, cpus"):
        study("stages.rl.roles.reference={within: policy, actors: 2, cpus: 1}")


def test_only_an_online_stage_overlaps(study: Study) -> None:
    assert "only an online stage writes answers while it trains" in refusal(study, "stages.rm.overlap={tail: drop}")[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ("max_staleness=1", "overlap={in_flight: restart}"),
        ("max_staleness=1", "overlap={old_policy: behaviour}"),
        ("max_staleness=1", "overlap={extra_prompts: 4, tail: later, in_flight: wait}"),
        ("deterministic=true", "overlap={}"),
        ("overlap={extra_prompts: 40}",),
    ],
)
def test_an_overlap_that_can_be_is_not(study: Study, overrides: tuple[str, ...]) -> None:
    check(study(*(f"stages.rl.{override}" for override in overrides)))


def test_a_group_stays_whole(study: Study) -> None:
    rrhf = (
        "stages.rl.algorithm=null",
        "stages.rl.algorithm={name: rrhf}",
        "stages.rl.candidates=[{source: live, count: 6}]",
    )
    assert (
        "64 is not a multiple of 1 ranks x 6 samples that stay together = 6; take 60 or 66" in refusal(study, *rrhf)[0]
    )
    check(study(*rrhf, "stages.rl.learner.minibatch=48"))


def test_an_environment_that_is_none_is_refused(study: Study) -> None:
    check(study("stages.rl.environment=paddock_two_turn"))
    for stage in ("rl", "draws", "test"):
        (line,) = refusal(study, f"stages.{stage}.environment=paddock_two_turns")
        assert f"stages.{stage}.environment: environment 'paddock_two_turns' is not known" in line
    (line,) = refusal(study, "stages.sft.environment=paddock_two_turn")
    assert "stages.sft.environment: only what the live policy writes has an environment" in line


def test_an_environment_may_give_the_scores(study: Study) -> None:
    check(study("stages.rl.environment=paddock_two_turn", "stages.rl.reward=null"))
    assert any("stages.rl.reward" in line for line in refusal(study, "stages.rl.reward=null"))
