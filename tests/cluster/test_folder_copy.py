"""A folder in pieces and back; tests/cluster/test_two_machines.py has the machines between."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayalign.cluster import folder_copy, shared_folders
from rayalign.cluster.folder_copy import FolderWriter, _pieces
from rayalign.cluster.shared_folders import SharedFolders, contents_of, missing_folders


def test_a_folder_appears_whole_with_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_copy, "PIECE", 10)
    source = tmp_path / "model"
    (source / "inner").mkdir(parents=True)
    (source / "weights").write_bytes(bytes(range(25)))
    (source / "exact").write_bytes(bytes(range(20)))
    (source / "inner" / "empty").touch()
    sizes = [(name, offset, len(piece)) for name, offset, piece in _pieces(source)]
    assert sizes == [
        ("exact", 0, 10), ("exact", 10, 10), ("inner/empty", 0, 0), ("weights", 0, 10), ("weights", 10, 10),
        ("weights", 20, 5),
    ]  # fmt: skip
    target = tmp_path / "elsewhere" / "model"
    writer = FolderWriter(str(target))
    for name, offset, piece in _pieces(source):
        writer.write(name, offset, piece)
    assert not target.exists()
    writer.finish()
    assert (target / "weights").read_bytes() == bytes(range(25)) and (target / "inner" / "empty").exists()
    assert contents_of(target) == contents_of(source)
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_a_folder_is_shared_where_its_mark_is_and_read_where_its_files_are(tmp_path: Path) -> None:
    written, read = tmp_path / "runs", tmp_path / "model"
    written.mkdir()
    read.mkdir()
    (read / "weights").write_text("1234")
    contents = {str(read): contents_of(read)}
    assert missing_folders([str(written)], contents, ".mark") == [str(written)]
    (written / ".mark").touch()
    assert missing_folders([str(written)], contents, ".mark") == []
    (read / "weights").write_text("12")
    assert missing_folders([str(written)], contents, ".mark") == [str(read)]


@pytest.mark.ray
def test_a_machine_that_is_gone_when_it_is_asked_is_left_out(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_folders, "other_machines", lambda: {"ab" * 28: "10.0.0.9"})
    folders = SharedFolders({"output": tmp_path}, {}, timeout=60.0)
    assert folders.problems() == []
    assert [text[:53] for text in caplog.messages] == ["the machine 10.0.0.9 went away before it was used: Th"]
