"""What a run chose is logged once, and again where it changes."""

from __future__ import annotations

import logging

import pytest

from rayalign.pipeline.choices import Choices


def test_a_choice_is_logged_when_it_is_new(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    choices = Choices()
    for path in ("store", "store", "files", "store"):
        choices.log("weights travel by", path, "said so")
    choices.log("offline training runs by", "actors", "said so")
    assert caplog.messages == [
        "weights travel by store (said so)",
        "weights travel by files (said so)",
        "weights travel by store (said so)",
        "offline training runs by actors (said so)",
    ]
