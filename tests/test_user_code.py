"""Code by dotted path: what exists, and how what fails is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayalign.algorithms.base import load
from rayalign.errors import InputError
from rayalign.rollout.environment import load_environment
from rayalign.scoring.code import import_code
from rayalign.user_code import import_dotted


def test_a_path_names_what_a_module_holds() -> None:
    assert import_dotted("json:loads") is json.loads


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere_at_all:f", r"nowhere_at_all:f cannot be imported \(No module named 'nowhere_at_all'\); write it as"),
        ("json:lods", r"json:lods cannot be imported \(module 'json' has no attribute 'lods'\); write it as"),
        (":loads", r":loads cannot be imported \(ValueError: Empty module name\); correct"),
    ],
)
def test_a_path_that_names_nothing_is_refused(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_dotted(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f(:\n", "SyntaxError: invalid syntax"),
        ("f = undefined\n", "NameError: name 'undefined' is not defined"),
        ("raise SystemExit\n", "SystemExit: no reason"),
        ("raise ValueError('one\\ntwo')\n", r"ValueError: one\)"),
    ],
)
def test_a_module_that_fails_is_refused_by_all_who_load_code(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    path = "broken_module:f"
    for loader in (import_dotted, import_code, load_environment):
        with pytest.raises(InputError, match=reason):
            loader(path)
    with pytest.raises(InputError, match=reason):
        load({"name": path})
