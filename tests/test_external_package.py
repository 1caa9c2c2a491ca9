"""Parts of a user's own by dotted path: a package outside of rayalign, used in a job as any user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

import rayalign
from rayalign.config import DataConfig, LoadedJob
from rayalign.data.readers import load_examples
from rayalign.errors import InputError
from rayalign.rollout.environment import Turns, load_environment
from rayalign.scoring.code import CodeScorer
from rayalign.storage.metrics import read_metrics
from rayalign.storage.records import read_jsonl, write_jsonl
from rayalign.types import Group, Message, Minibatch, Outputs, Prompt, Segment, Trajectory

PACKAGE = Path(__file__).parent / "external_package"
READER = "courtesy.tickets:tickets"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package on the path, as an installation puts it there."""
    monkeypatch.syspath_prepend(PACKAGE / "src")
    yield PACKAGE
    for name in [name for name in sys.modules if name.partition(".")[0] == "courtesy"]:
        del sys.modules[name]


@pytest.fixture
def job(package: Path, tmp_path: Path) -> LoadedJob:
    """The package's job on forty tickets."""
    write_tickets(tmp_path / "tickets.jsonl")
    return load_job(tmp_path)


def load_job(folder: Path, *overrides: str) -> LoadedJob:
    rows = folder / "tickets.jsonl"
    return rayalign.load_job(PACKAGE / "job.yaml", [f"data.path={rows}", f"output={folder}", *overrides])


def write_tickets(path: Path) -> None:
    cities = ("lima", "oslo", "rome", "cairo")
    rows = []
    for number in range(40):
        ticket = f"my parcel {number} to {cities[number % 4]} is late"
        rows.append({"ticket": ticket, "sent": "thank you for writing", "draft": "so what", "topic": "refund"})
    rows.append({"ticket": "restart it", "sent": "a", "draft": "b", "internal": True})
    write_jsonl(path, rows)


def answer(text: str, *turns: Message) -> Trajectory:
    return Trajectory("p", 0, (1, 2), (Segment(0, "template"),), (), "stop", text, turns=turns)


def test_a_job_of_parts_outside_the_package_is_checked_and_planned(job: LoadedJob) -> None:
    rayalign.check(job)
    assert [stage.name for stage in rayalign.plan(job).stages] == ["base", "pairs", "online"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.format=courtesy.tickets:ticket", "courtesy.tickets:ticket cannot be imported"),
        ("stages.pairs.algorithm.name=courtesy.least_squares:LeastSquaresConfig", "is no subclass of"),
        ("stages.pairs.algorithm.margin=-1", "margin"),
        ("stages.online.environment=courtesy.scores:politeness", "has no method step"),
        ("stages.online.reward=courtesy.scores:rudeness", "courtesy.scores:rudeness cannot be imported"),
    ],
)
def test_a_part_that_is_none_is_refused_before_the_start(
    job: LoadedJob, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rayalign.check(load_job(tmp_path, override))


def test_the_reader_makes_examples_and_leaves_rows_out(
    job: LoadedJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = DataConfig(format=READER, path=str(tmp_path / "tickets.jsonl"))
    examples = load_examples(data, seed=0, use="comparisons")
    assert len(examples) == 40 and examples[0].prompt.meta == {"topic": "refund"}
    assert [candidate.score for candidate in examples[0].candidates] == [1.0, 0.0]
    assert "1 rows left out (an internal ticket: 1)" in caplog.text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return row['nothing']", r"rows\.jsonl:1: own_reader:read raised KeyError: 'nothing'; correct it or the row"),
        ("return 3", r"rows\.jsonl:1: own_reader:read returned int; return an Example"),
    ],
)
def test_a_reader_that_fails_names_the_row(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_reader.py").write_text(f"def read(row, where):\n    {code}\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_reader", raising=False)
    write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    with pytest.raises(InputError, match=message):
        load_examples(DataConfig(format="own_reader:read", path=str(tmp_path / "rows.jsonl")), seed=0, use="prompts")
    with pytest.raises(InputError, match="own_reader:number is no function"):
        load_examples(DataConfig(format="own_reader:number", path=str(tmp_path / "rows.jsonl")), seed=0, use="prompts")


def test_the_algorithm_computes_its_loss(package: Path) -> None:
    algorithm = rayalign.load_algorithm({"name": "courtesy.least_squares:LeastSquares", "margin": 0.5})
    mask = torch.tensor([[True, True], [True, False]])
    minibatch = Minibatch({"policy_mask_BT": mask, "preferences_B": torch.tensor([1.0, 1.0])}, torch.tensor([0, 0]))
    loss = algorithm.loss("policy", Outputs(logprobs_BT=torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])), minibatch)
    # log-probs a token: -1.5 and -3; (1.5 - 0.5)^2
    assert loss.numerator.item() == pytest.approx(1.0)
    assert loss.metrics["preference/margin"].value == pytest.approx(1.5)


def test_the_scorer_and_the_environment_see_prompt_and_turns(package: Path) -> None:
    prompt = Prompt("p", (Message("user", "late"),), {"topic": "refund"})
    group = Group("p", prompt, 0, (answer("Thank you"), answer("")))
    scorer = CodeScorer("courtesy.scores:politeness", {"words": ["thank", "you", "glad"]})
    [(polite, absent)] = scorer.score([group])
    assert polite.value == pytest.approx(2 / 3) and absent.value is None

    def encode(messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(len(message.content) for message in messages)

    environment = load_environment("courtesy.follow_up:FollowUp")(prompt, Turns(encode))
    reply = environment.step(answer("what ?"))
    assert (reply.done, reply.messages) == (False, (Message("user", "and the refund ?"),))
    assert environment.step(answer("thank you", Message("assistant", "what ?"), *reply.messages)).reward == 1.0


@pytest.mark.e2e
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_job_runs_with_the_package_in_every_process(tmp_path: Path) -> None:
    write_tickets(tmp_path / "tickets.jsonl")
    path = os.pathsep.join(filter(None, (str(PACKAGE / "src"), os.environ.get("PYTHONPATH"))))
    command = [str(Path(sys.executable).with_name("rayalign")), "run", str(PACKAGE / "job.yaml")]
    command += [f"data.path={tmp_path / 'tickets.jsonl'}", f"output={tmp_path}"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr
    stages = tmp_path / "courtesy" / "stages"
    assert read_metrics(stages / "pairs" / "metrics.jsonl")[-1]["metrics"]["loss/policy"] > 0
    [row] = read_metrics(stages / "online" / "metrics.jsonl")
    assert "reward/politeness" in row["metrics"] or "reward/mean" in row["metrics"]
    assert any("and the refund ?" in str(sample) for sample in read_jsonl(stages / "online" / "samples.jsonl"))
