from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from typer.testing import CliRunner, Result

from rayalign.annotator.asking import connect as connect_module
from rayalign.annotator.asking.api import Annotation, PairItem
from rayalign.cli import app
from rayalign.config import HumanConfig
from rayalign.data.paddock import gold, prompts
from rayalign.data.paddock.tokenizer import build_tokenizer
from rayalign.storage.journal import Journal
from rayalign.storage.records import encode, write_jsonl
from rayalign.storage.summary import write_done
from rayalign.types import Group, Prompt, Segment, Trajectory


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def one(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class FirstShown:
    """Stands in for an annotator: says A, but of the third pair nothing."""

    asked: list[bool]

    def __init__(self) -> None:
        self.asked = []

    def annotate(self, rows: Iterable[PairItem], *, seed: int = 0, both_orders: bool = False) -> Iterator[Annotation]:
        for index, row in enumerate(rows):
            self.asked.append(both_orders)
            known: dict[str, Any] = {"consistent": False, "first_shown": 1.0} if both_orders else {}
            verdict = {"preference": 1.5 if both_orders else 1.0, **known}
            absent = {"preference": None, "reason": "it was silent"}
            said = absent if row.instruction == "q2" else verdict
            yield Annotation(index=index, annotator="a", price=0.002, seconds=0.5, **said)

    def close(self) -> None:
        pass


@pytest.fixture
def first_shown(monkeypatch: pytest.MonkeyPatch) -> FirstShown:
    made = FirstShown()
    monkeypatch.setattr(connect_module, "connect", lambda where, name: made)
    return made


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """A pool's file with the truth, and a human over it."""
    file = tmp_path / "pool.yaml"
    annotators = "{gold: {judge: {kind: rubric}}, blunt: {judge: {kind: rubric}, human: {position_bias: 0.3}}}"
    file.write_text(f"cache: sqlite:///{tmp_path / 'v.db'}\nannotators: {annotators}\n")
    return file


def pairs_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_the_truth_itself_is_a_judge_without_fault(pool: Path) -> None:
    found = one(call("evaluate", "judge", "--annotator", "gold", "--at", pool, "--json"))
    assert (found["pairs"], found["absent"], found["price"], found["reasons"]) == (100, 0.0, 0.0, {})
    assert (found["consistent"]["mean"], found["gold"]["mean"], found["prefers_first"]["mean"]) == (100, 100, 50)
    assert len(found["attacks"]) == 8 and all(row["passed"] for row in found["attacks"])


def test_a_liking_for_the_first_shown_is_reported(pool: Path) -> None:
    found = one(call("evaluate", "judge", "--annotator", "blunt", "--at", pool, "--json"))
    assert found["prefers_first"]["low"] > 50 and found["consistent"]["high"] < 100 and found["gold"]["high"] < 100
    shown = call("evaluate", "judge", "--annotator", "blunt", "--at", pool)
    assert "for the first shown [%]" in shown.stdout and shown.stdout.count("withstood") == 8


def test_figures_of_a_judge_by_hand(tmp_path: Path, first_shown: FirstShown) -> None:
    rows = [{"instruction": f"q{i}", "output_1": "x", "output_2": "y"} for i in range(4)]
    file = pairs_file(tmp_path / "pairs.json", rows)
    found = one(call("evaluate", "judge", file, "--json"))
    assert (found["consistent"]["mean"], found["prefers_first"]["mean"], found["gold"]) == (0.0, 100.0, None)
    # three verdicts tie because the orders disagree, which is no tie of the judge's
    assert (found["tied"], found["absent"], found["reasons"]) == (0.0, 25.0, {"it was silent": 1})
    # four pairs in two orders: 4 * 0.002 dollars and 4 * 0.5 seconds are of eight verdicts
    assert (found["price"], found["seconds"]) == (pytest.approx(1.0), pytest.approx(250.0))
    assert {row["passed"] for row in found["attacks"]} == {False}
    assert first_shown.asked == [True] * 4 + [False] * 64
    assert "1 pairs: it was silent" in call("evaluate", "judge", file).stderr


def test_judge_refuses_rows_that_are_no_pairs(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "pairs.json", [{"instruction": "q", "output_1": "x"}])
    result = call("evaluate", "judge", file)
    assert (result.exit_code, result.stdout) == (2, "") and "row 1: output_2" in result.stderr


SHAPE = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "initializer_range": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    torch.set_num_threads(1)
    return build_tokenizer()


@pytest.fixture(scope="module")
def causal(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("causal")
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("reward")
    config = LlamaConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1, **SHAPE)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


ANSWERS = [
    ("tell me the color of ada .", "it is brown ."),
    ("tell me the color of ada .", "brown ."),
    ("now", "gladly ."),
]


def outputs(path: Path, answers: list[tuple[str, str]]) -> Path:
    return pairs_file(path, [{"instruction": q, "output": a, "generator": "it"} for q, a in answers])


@torch.no_grad()
def mean_nll(model: str, head: str, tail: str, tokenizer: PreTrainedTokenizerFast) -> float:
    before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in (head, tail))
    logits = AutoModelForCausalLM.from_pretrained(model)(torch.tensor([before + after])).logits[0]
    logprobs = logits.log_softmax(-1)
    return -sum(float(logprobs[len(before) + i - 1, token]) for i, token in enumerate(after)) / len(after)


def dialogue(tokenizer: PreTrainedTokenizerFast, question: str, answer: str) -> tuple[str, str]:
    turns = [{"role": "user", "content": question}]
    head = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return head, f"{answer} {tokenizer.eos_token}"


def test_perplexity_is_exp_of_the_answers_mean(tmp_path: Path, causal: str, tokenizer: Any) -> None:
    file = outputs(tmp_path / "it.json", [*ANSWERS, ("later", "")])
    found = one(call("evaluate", "perplexity", causal, file, "--json"))
    expected = [mean_nll(causal, *dialogue(tokenizer, q, a), tokenizer) for q, a in ANSWERS]
    assert found["mean"] == pytest.approx(math.exp(sum(expected) / 3), rel=1e-4)
    assert found["low"] < found["mean"] < found["high"]
    assert (found["name"], found["metric"], found["n"]) == ("it", "perplexity", 2)
    assert found["absent"] == {"the answer is empty": 1}


def test_perplexity_of_a_model_without_a_chat_template(tmp_path: Path, causal: str) -> None:
    plain = build_tokenizer()
    plain.chat_template = None
    model = tmp_path / "plain"
    AutoModelForCausalLM.from_pretrained(causal).save_pretrained(model)
    plain.save_pretrained(model)
    file = outputs(tmp_path / "it.json", ANSWERS[:1])
    found = one(call("evaluate", "perplexity", model, file, "--json"))
    question, answer = ANSWERS[0]
    assert found["mean"] == pytest.approx(math.exp(mean_nll(causal, question, answer, plain)), rel=1e-4)
    assert (found["low"], found["n"]) == (None, 1)


def test_reward_is_the_classifiers_mean_and_what_is_too_long_is_absent(
    tmp_path: Path, classifier: str, tokenizer: Any
) -> None:
    file = outputs(tmp_path / "it.json", [*ANSWERS, ("now", "gladly . " * 20)])
    found = one(call("evaluate", "reward", classifier, file, "--context", 30, "--json"))
    model = AutoModelForSequenceClassification.from_pretrained(classifier)
    texts = ["".join(dialogue(tokenizer, q, a)) for q, a in ANSWERS]
    ids = [tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids for text in texts]
    with torch.no_grad():
        expected = [float(model(row).logits[0, 0]) for row in ids]
    assert found["mean"] == pytest.approx(sum(expected) / 3, abs=1e-4)
    assert list(found["absent"].values()) == [1] and found["n"] == 2
    shown = call("evaluate", "reward", classifier, file, "--context", 30)
    assert "longer than 30 tokens" in shown.stderr
    refused = call("evaluate", "reward", classifier, file, "--context", 2)
    assert refused.exit_code == 2 and "no answer can be scored" in refused.stderr


def run_folder(run: Path, iterations: int, worth: list[str], *, kl: bool = True) -> Path:
    """A finished stage of two groups an iteration, whose reward rises by one; `worth`: how each half answers."""
    rows, stage = [], run / "stages" / "ppo"
    journal = Journal(run / "journal" / "ppo.jsonl")
    asked = prompts(0, "train", 2 * iterations)
    for i in range(iterations):
        rows.append({"step": i, "metrics": {"reward/mean": float(i), **({"kl/reference": 0.1 * i} if kl else {})}})
        for prompt in asked[2 * i : 2 * i + 2]:
            made = group(prompt, gold.oracle(prompt) if worth[2 * i // iterations] == "good" else "")
            journal.append({"kind": "finished", "group": encode(made)})
            journal.append({"kind": "scored", "group": made.id, "scores": [{"value": float(i), "reason": None}]})
        ids = [prompt.id for prompt in asked[2 * i : 2 * i + 2]]
        journal.append({"kind": "consumed", "iteration": i, "groups": ids})
    journal.close()
    write_jsonl(stage / "metrics.jsonl", rows)
    write_done(stage, "hash")
    return run


def group(prompt: Prompt, answer: str) -> Group:
    segments = (Segment(0, "template"), Segment(1, "policy", 0))
    return Group(prompt.id, prompt, 0, (Trajectory(prompt.id, 0, (1, 2), segments, (0.0,), "stop", answer),))


def test_a_proxy_that_rises_while_gold_falls_is_over_optimised(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "late", 16, ["good", "bad"])
    found = one(call("evaluate", "frontier", run, "--json"))
    # windows of four iterations: 0-3 has mean reward 1.5 and mean KL 0.15
    assert [p["name"] for p in found["points"]] == [f"late/ppo {i}-{i + 3}" for i in (0, 4, 8, 12)]
    assert found["points"][0]["reward"]["mean"] == 1.5 and found["points"][0]["kl"]["mean"] == pytest.approx(0.15)
    curve = found["overoptimisation"]["late/ppo"]
    assert (curve["x"], [p["mean"] for p in curve["proxy"]]) == ([3, 7, 11, 15], [1.5, 5.5, 9.5, 13.5])
    assert [p["mean"] > 0.9 for p in curve["gold"]] == [True, True, False, False]
    assert curve["gold_turn"]["real"] is True and curve["gold_turn"]["peak"] in (0, 1)
    shown = call("evaluate", "frontier", run)
    assert ": over-optimised" in shown.stderr and "late/ppo 12-15" in shown.stdout
    rising = run_folder(tmp_path / "early", 16, ["bad", "good"])
    assert "early/ppo" in call("evaluate", "frontier", run, rising).stdout
    assert (
        one(call("evaluate", "frontier", rising, "--json"))["overoptimisation"]["early/ppo"]["gold_turn"]["real"]
        is False
    )


def test_without_gold_the_frontier_stays(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", 4, ["good", "good"])
    (run / "stages" / "ppo" / "done.json").unlink()
    found = one(call("evaluate", "frontier", run, "--json"))
    assert len(found["points"]) == 2 and found["overoptimisation"] == {}
    refused = call("evaluate", "frontier", run_folder(tmp_path / "free", 4, ["good", "good"], kl=False))
    assert refused.exit_code == 2 and "KL coefficient" in refused.stderr


def human_rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"q{i}",
            "output_1": "a b",
            "output_2": f"c {i}",
            "utility_1": i % 7,
            "utility_2": i % 5,
            **more,
        }
        for i in range(count)
    ]


def test_a_human_with_published_figures_loads_as_a_pools_file(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "pairs.json", human_rows(200))
    result = call("fit-human", file, "--agreement", 65.7, "--variance", 30)
    assert result.exit_code == 0, result.stderr
    assert "# agreement 65.7 [" in result.stdout and "# variance 30 [" in result.stdout
    human = HumanConfig.model_validate(yaml.safe_load(result.stdout)["human"])
    assert human.temperature > 0 and 0 < human.self_disagreement < 1


def test_labels_that_are_always_right_say_so(tmp_path: Path) -> None:
    rows = [{**row, "preference": 1 if row["utility_1"] > row["utility_2"] else 2} for row in human_rows(200)]
    rows = [row for row in rows if row["utility_1"] != row["utility_2"]]
    result = call("fit-human", pairs_file(tmp_path / "pairs.json", rows), "--labels")
    assert "# agreement 100 [" in result.stdout and "# warning: temperature" in result.stdout
    assert HumanConfig.model_validate(yaml.safe_load(result.stdout)["human"]).flip == 0.0


def test_public_ties_are_labels_and_what_is_no_label_is_named(tmp_path: Path) -> None:
    rows = [{**row, "preference": 0 if i % 9 == 0 else 1 + (i % 7 > 4)} for i, row in enumerate(human_rows(200))]
    rows = [{**row, "utility_1": 1.0 - i % 7 / 7, "utility_2": 0.4} for i, row in enumerate(rows)]
    result = call("fit-human", pairs_file(tmp_path / "pairs.json", rows), "--labels")
    assert result.exit_code == 0 and "# tie " in result.stdout, result.stderr
    for wrong, told in (
        ({"preference": "A"}, "`preference` must be a number"),
        ({"utility_1": 10**400}, "finite numbers"),
    ):
        refused = call("fit-human", pairs_file(tmp_path / "odd.json", [*rows, rows[0] | wrong]), "--labels")
        assert refused.exit_code == 2 and "row 201: " in refused.stderr and told in refused.stderr


def test_gold_is_used_where_the_rows_have_no_utilities(tmp_path: Path) -> None:
    rows = [
        {"instruction": p.messages[0].content, "output_1": gold.oracle(p), "output_2": "no"}
        for p in prompts(0, "test", 80)
        if len(p.messages) == 1
    ]
    file = pairs_file(tmp_path / "pairs.json", rows)
    assert "human:" in call("fit-human", file, "--agreement", 80, "--variance", 10).stdout
    strange = pairs_file(tmp_path / "strange.json", [{"instruction": "who am I?", "output_1": "x", "output_2": "y"}])
    refused = call("fit-human", strange, "--agreement", 80, "--variance", 10)
    assert refused.exit_code == 2 and "row 1: needs a prompt of the embedded world" in refused.stderr


@pytest.mark.parametrize("options", [[], ["--agreement", "70"], ["--labels", "--variance", "3"]])
def test_fit_human_needs_one_aim(tmp_path: Path, options: list[str]) -> None:
    file = pairs_file(tmp_path / "pairs.json", human_rows(40, preference=1))
    refused = call("fit-human", file, *options)
    assert refused.exit_code == 2 and "either --agreement and --variance, or --labels" in refused.stderr
