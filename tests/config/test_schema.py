from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from rayalign.cli import app

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").rglob("*.yaml"))


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2, as editors read it: 5e-3 is a number, which PyYAML alone takes for a text."""


EditorLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@cache
def printed_schema() -> dict[str, Any]:
    result = CliRunner().invoke(app, ["schema"])
    return dict(json.loads(result.stdout))


def problems(job: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(printed_schema()).iter_errors(job)]


def stage(**keys: Any) -> dict[str, Any]:
    return {"name": "job", "stages": {"sft": {"kind": "train", "model": "preset:nano", **keys}}}


def test_every_key_has_a_text() -> None:
    schema = printed_schema()
    for name, part in {"Job": schema, **schema["$defs"]}.items():
        for key, field in part["properties"].items():
            assert field.get("description"), f"{name}.{key}: put a text below the field in the source"


def test_a_key_without_a_text_of_its_own_has_that_of_its_section() -> None:
    keys = printed_schema()["$defs"]["TrainStage"]["properties"]
    assert keys["sampling"]["description"] == "How answers are drawn."
    assert keys["epochs"]["description"].startswith("at most")
    assert keys["kind"]["description"].startswith("Train by one algorithm")


@pytest.mark.parametrize("path", JOBS, ids=[str(path.relative_to(ROOT)) for path in JOBS])
def test_shipped_jobs_fit_it(path: Path) -> None:
    assert problems(yaml.load(path.read_text(), EditorLoader)) == []


def test_forms_that_are_read_fit_it() -> None:
    rules = {"rules": {"kind": "numeric"}}
    assert problems(stage(algorithm={"name": "ppo"}, reward=rules)) == []
    assert problems(stage(algorithm={"name": "ppo"}, reward=["stage:rm", rules])) == []
    merge = {"kind": "merge", "models": {"stage:a": 0.7, "stage:b": 0.3}}
    assert problems({"extends": "base.yaml", "stages": {"sum": merge, "old": None}}) == []


def test_the_settings_are_those_of_the_algorithm() -> None:
    assert problems(stage(algorithm={"name": "ppo", "gamma": 0.9})) == []
    assert problems(stage(algorithm={"name": "dpo", "gamma": 0.9}))
    assert problems(stage(algorithm={"name": "dop"}))
    assert problems(stage(algorithm={"name": "my_package.losses:Mine", "anything": 1})) == []


def test_an_unknown_key_does_not_fit_it() -> None:
    assert problems(stage(algorithm={"name": "sft"}, epoch=1))


def test_the_page_is_that_of_the_sections() -> None:
    result = CliRunner().invoke(app, ["schema", "--markdown"])
    written = (ROOT / "docs" / "reference.md").read_text()
    assert written == result.stdout, "rayalign schema --markdown > docs/reference.md"
