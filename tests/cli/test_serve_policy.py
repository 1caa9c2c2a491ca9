from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayalign.cli import app
from rayalign.config import ServedPolicyConfig
from rayalign.pipeline import serving


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--adapter", "P1A"), "--adapter 'P1A' names no folder; write it as PREFERENCE=FOLDER"),
        (("--adapter", "P1A=a", "--adapter", "P1A=b"), "--adapter P1A is there twice"),
        (("--adapter", "P9=a"), "--adapter P9: there is no preference of that name"),
        (("--preferences", "none.yaml"), "none.yaml: the preferences cannot be read"),
        ((), "model nowhere: neither a folder nor in the Hugging Face cache"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["serve-policy", "nowhere", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_options_reach_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    received: list[ServedPolicyConfig] = []
    monkeypatch.setattr(serving, "serve_policy_until_stopped", lambda config, *_: received.append(config))
    options = ["--adapter", "P1A=one", "--adapter", "P2B=two=2", "--merged", "3", "--port", "0", "--context", "64"]
    result = CliRunner().invoke(app, ["serve-policy", "base", *options, "--cache", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    expected = ServedPolicyConfig(
        model="base",
        adapters={"P1A": "one", "P2B": "two=2"},
        merged=3,
        port=0,
        context=64,
        cache=str(tmp_path),
    )
    assert received == [expected]
