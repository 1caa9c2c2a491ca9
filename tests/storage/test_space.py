from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayalign.errors import ActorError, RayalignError
from rayalign.storage import space
from rayalign.storage.records import Appender
from rayalign.storage.space import full_disk_named

TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 9403584 vs 9403472"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ActorError("train:policy rank 0 failed: I/O error: No space left on device (os error 28)"),
        RuntimeError(TORCH),
    ],
)
def test_a_full_disk_is_called_one_with_its_folder(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(RayalignError, match=rf"^no space left on {tmp_path}; free space.*same command again$"),
        full_disk_named(tmp_path),
    ):
        raise error


def test_a_full_device_is_met_by_an_append() -> None:
    with pytest.raises(RayalignError, match="no space left on /dev"), full_disk_named(Path("/dev")):
        Appender(Path("/dev/full"), shared=True).append({"a": 1})


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError), full_disk_named(tmp_path):
        raise KeyError("a")


def test_on_a_disk_without_any_room_a_failure_in_other_words_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = ActorError("policy (pid 7) failed: RuntimeError: basic_ios::clear")
    with pytest.raises(ActorError, match="basic_ios"), full_disk_named(tmp_path):
        raise failure
    monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(RayalignError, match="^no space left on"), full_disk_named(tmp_path):
        raise failure
    with pytest.raises(KeyError), full_disk_named(tmp_path):
        raise KeyError("a")
