from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from rayalign.annotator.asking.client import item_of
from rayalign.annotator.web.access import digest
from rayalign.cli import app
from rayalign.data.paddock.demonstrations import demonstration_pairs
from tests.annotator.stub_endpoint import Stub
from tests.ports import held_port

POOL = """\
cache: sqlite:///verdicts.db
annotators:
  gold: {judge: {kind: rubric}}
  hasty: {judge: {kind: rubric}, human: {temperature: 0.3, position_bias: 0.2}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a pool and forty pairs of the embedded world."""
    monkeypatch.chdir(tmp_path)
    Path("pool.yaml").write_text(POOL)
    items = [item_of(*pair) for pair in demonstration_pairs(0, 40)]
    pairs = [item.model_dump(mode="json", exclude_defaults=True) for item in items]
    Path("pairs.json").write_text(json.dumps([{**pair, "id": "same", "dataset": "world"} for pair in pairs]))
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_annotations_are_written_in_the_public_schema(folder: Path) -> None:
    done = call("annotate", "pairs.json", "--at", "pool.yaml", "--annotator", "gold")
    assert done.exit_code == 0, done.stderr
    assert "40 annotations, 0 of them without a preference, 0 known before: annotations.json" in done.stdout
    rows = json.loads(Path("annotations.json").read_text())
    assert len(rows) == 40 and {row["annotator"] for row in rows} == {"gold"}
    assert rows[0].keys() >= {"dataset", "output_1", "output_2", "preference", "preference_price_per_example"}
    again = call("annotate", "pairs.json", "--at", "pool.yaml", "--annotator", "gold", "--output", "again.jsonl")
    assert "40 known before" in again.stdout
    assert [json.loads(line)["preference"] for line in Path("again.jsonl").read_text().splitlines()] == [
        row["preference"] for row in rows
    ]


def test_both_orders_tell_the_position_bias(folder: Path) -> None:
    done = call("annotate", "pairs.json", "--at", "pool.yaml", "--annotator", "hasty", "--both-orders")
    assert float(done.stdout.split("position bias ")[1].split(":")[0]) > 0.05
    rows = json.loads(Path("annotations.json").read_text())
    assert {row["preference_consistent"] for row in rows} == {True, False}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent.json",), "absent.json: there is no such file"),
        (("broken.json",), "broken.json"),
        (("short.json",), "short.json: row 2: output_2: Field required"),
        (("pairs.json", "--annotator", "golt"), "did you mean gold?"),
        (("pairs.json", "--flip", "0.7"), "flip: Input should be less than or equal to 0.5"),
        (("pairs.json", "--seed", "-1"), "seed: Input should be greater than or equal to 0"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    Path("broken.json").write_text('[{"instruction": ')
    Path("short.json").write_text(
        '[{"instruction": "a", "output_1": "b", "output_2": "c"}, {"instruction": "a", "output_1": "b"}]'
    )
    done = call("annotate", *arguments, "--at", "pool.yaml", "--output", "out.json")
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1
    assert not Path("out.json").exists() and not list(folder.glob(".out.json*"))


def test_a_row_is_given_back_with_all_that_it_holds(folder: Path) -> None:
    rows = json.loads(Path("pairs.json").read_text())[:1]
    Path("half.json").write_text(json.dumps([{**rows[0], "note": "é and half an emoji: \ud83d"}]))
    assert call("annotate", "half.json", "--at", "pool.yaml").exit_code == 0
    assert json.loads(Path("annotations.json").read_text())[0]["note"] == "é and half an emoji: \ud83d"


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("latin.yaml", "latin.yaml is not YAML"),
        ("inf.yaml", "budget.dollars is inf"),
        ("named.yaml", "`pool` is the name under which one of them is drawn"),
        ("http://a:b", "is no address"),
    ],
)
def test_what_cannot_be_a_pool_is_one_sentence(folder: Path, at: str, said: str) -> None:
    Path("latin.yaml").write_bytes("cache: é".encode("latin-1"))
    Path("inf.yaml").write_text(POOL + "budget: {dollars: .inf}\n")
    Path("named.yaml").write_text("annotators: {pool: {judge: {kind: rubric}}}\n")
    done = call("annotate", "pairs.json", "--at", at)
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_port_is_checked_before_anything_starts(folder: Path) -> None:
    assert call("serve", "pool.yaml", "--port", "70000").exit_code == 2


def test_an_estimate_asks_nobody(folder: Path) -> None:
    done = call("annotate", "pairs.json", "--at", "pool.yaml", "--annotator", "gold", "--estimate")
    assert done.stdout.strip() == "40 pairs: 0 verdicts to pay for, about 0 tokens, $0.00"
    assert not Path("annotations.json").exists()


def test_a_pool_file_is_refused_with_the_nearest_key(folder: Path) -> None:
    Path("wrong.yaml").write_text(POOL.replace("temperature", "temprature"))
    done = call("annotate", "pairs.json", "--at", "wrong.yaml")
    assert done.exit_code == 2 and "did you mean annotators.hasty.human.temperature" in done.stderr


@pytest.mark.parametrize("name", ["", "a\nb", "#ann"])
def test_no_token_is_made_for_a_name_that_its_line_cannot_hold(name: str) -> None:
    done = call("token", name)
    assert done.exit_code == 2 and not done.stdout and "another" in done.stderr


def test_a_row_without_an_instruction_is_no_pair(folder: Path) -> None:
    Path("prompt.json").write_text(json.dumps([{"prompt": "q", "output_1": "a", "output_2": "b"}]))
    done = call("annotate", "prompt.json", "--at", "pool.yaml")
    assert done.exit_code == 2 and "prompt.json: row 1: `instruction` is missing; give it" in done.stderr


def test_a_token_and_its_hash_belong_together() -> None:
    shown, kept = call("token", "ann").stdout.splitlines()
    assert kept.endswith(f"ann {digest(shown.split()[-1])}")


def test_serving_to_other_machines_needs_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayalign.annotator.service import build, start
    from rayalign.annotator.service_file import load_service
    from rayalign.errors import InputError

    monkeypatch.delenv("RAYALIGN_TOKENS", raising=False)
    for setting, value in (("host", "0.0.0.0"), ("haproxy", True)):
        with pytest.raises(InputError, match=f"{setting}.* lets other machines ask, but there is no token"):
            start(load_service(Path("pool.yaml")).model_copy(update={setting: value}))
    with pytest.raises(InputError, match="`serve deploy` lets other machines ask, but there is no token"):
        build({"annotators": {"gold": {"judge": {"kind": "rubric"}}}})


def test_a_job_tells_what_it_will_cost_before_it_begins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    judge = "{kind: llm, model: m, base_url: 'http://127.0.0.1:9/v1', price_per_prompt_token: 0.01, retries: 0}"
    Path("paid.yaml").write_text(
        f"cache: sqlite:///v.db\nbudget: {{dollars: 10}}\nannotators: {{paid: {{judge: {judge}}}}}"
    )
    done = call("annotate", "pairs.json", "--at", "paid.yaml", "--both-orders")
    assert done.exit_code == 2 and not Path("annotations.json").exists()
    told, refused = done.stderr.splitlines()
    assert told.startswith("40 pairs: 80 verdicts to pay for, about ")
    assert "at least $" in refused and "the budget has $10 left; nothing was sent" in refused


def test_a_taken_port_is_refused_in_one_sentence(folder: Path) -> None:
    from rayalign.annotator.service import start
    from rayalign.annotator.service_file import load_service
    from rayalign.errors import InputError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port} cannot be served on"):
            start(load_service(Path("pool.yaml")).model_copy(update={"port": port}))


def test_a_database_that_is_away_is_told_before_anything_starts(folder: Path) -> None:
    Path("pool.yaml").write_text(POOL.replace("sqlite:///verdicts.db", "postgresql://me:secret@127.0.0.1:1/none"))
    away = call("serve", "pool.yaml")
    assert away.exit_code == 1 and "me:***@127.0.0.1:1/none: connection failed" in away.stderr


def test_nobody_at_the_address_is_told_in_seconds(folder: Path) -> None:
    with held_port() as port:
        start = time.monotonic()
        done = call("annotate", "pairs.json", "--at", f"http://127.0.0.1:{port}")
    assert done.exit_code == 1 and time.monotonic() - start < 60, "ten minutes before"
    assert f"http://127.0.0.1:{port}/v1/estimate: no answer within 5 s (no connection" in done.stderr
    assert not Path("annotations.json").exists()


def test_judges_that_do_not_fit_are_told_before_anything_starts(folder: Path) -> None:
    judge = "judge: {kind: vllm, model: m, cpus: 1000}"
    Path("large.yaml").write_text(f"annotators: {{one: {{{judge}}}, two: {{{judge}}}}}\n")
    done = call("serve", "large.yaml")
    assert done.exit_code == 2
    assert "the service's front, one, two together need 2001 CPUs, and there are" in done.stderr


class Service:
    """`rayalign serve pool.yaml` as a process of its own."""

    def __init__(self, port: int) -> None:
        command = [str(Path(sys.executable).with_name("rayalign")), "serve", "pool.yaml", "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._limit = threading.Timer(400.0, self.process.kill)
        self._limit.start()

    def line(self, *, error: bool = False) -> str:
        """The next line of its output."""
        stream = self.process.stderr if error else self.process.stdout
        assert stream is not None
        return stream.readline()

    def rest(self) -> tuple[list[str], list[str], int]:
        """What it writes until its end, on both streams, and its exit code."""
        out, err = self.process.communicate()
        self._limit.cancel()
        return out.splitlines(), err.splitlines(), self.process.returncode


@pytest.mark.ray
def test_a_service_answers_at_length_and_drops_nobody_when_it_stops(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    with Stub(latency=5.0) as stub, held_port() as port:
        url = f"http://127.0.0.1:{port}"
        slow = f"  slow: {{judge: {{kind: llm, model: m, base_url: '{stub.url}', concurrency: 64}}}}\n"
        Path("pool.yaml").write_text(POOL + slow)
        service = Service(port)
        assert service.line().startswith(f"3 annotators at {url}  "), service.rest()
        _check_long_export(url)
        replies: list[int | str] = []

        def ask(number: int) -> None:
            pair = {"instruction": f"question {number}", "output_1": "a", "output_2": "bb"}
            try:
                reply = httpx.post(f"{url}/v1/preferences", json={"annotator": "slow", "pairs": [pair]}, timeout=60)
                replies.append(reply.status_code if "annotations" in reply.json() else reply.text)
            except httpx.HTTPError as error:
                replies.append(repr(error))

        askers = [threading.Thread(target=ask, args=(number,)) for number in range(33)]
        for asker in askers:
            asker.start()
        end = time.monotonic() + 60.0
        while len(stub.keys) < 33:  # all of them are in progress
            assert time.monotonic() < end
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)
        for asker in askers:
            asker.join(timeout=60)
        assert replies == [200] * 33
        out, err, code = service.rest()
    assert (out, code) == (["finishing what is in progress"], 0)
    assert [line for line in err if not line.startswith("waiting for ")] == []


def _check_long_export(url: str) -> None:
    """Labels of 805 pairs by two annotators: more than 4 MiB, Serve's own limit for a reply."""
    pairs = [item_of(*pair).model_dump(mode="json", exclude_defaults=True) for pair in demonstration_pairs(0, 805)]
    long = [{**pair, "id": "same", "meta": {**pair["meta"], "note": "long " * 700}} for pair in pairs]
    added = httpx.post(f"{url}/v1/label/pairs", json={"pairs": long}, timeout=60).json()["added"]
    for annotator in ("gold", "hasty"):
        after = 0
        while after is not None:
            body = {"annotator": annotator, "after": after}
            after = httpx.post(f"{url}/v1/label/annotate", json=body, timeout=60).json()["next"]
    export = httpx.get(f"{url}/v1/label/export", timeout=60)
    assert len(export.content) > 4 << 20 and len(export.json()) == 2 * added


@pytest.mark.ray
def test_a_service_that_is_stopped_while_it_starts_ends_in_one_line(folder: Path) -> None:
    with held_port() as port:
        service = Service(port)
        assert service.line(error=True).startswith("waiting for ")
        service.process.send_signal(signal.SIGTERM)
        out, err, code = service.rest()
    assert (out, code) == ([], 130)
    assert [line for line in err if not line.startswith("waiting for ")] == [
        "rayalign: interrupted; the same command goes on where this one stopped"
    ]
