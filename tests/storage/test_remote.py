"""A folder in an S3-compatible server, which moto runs, and one of the local system by URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayalign.errors import InputError, RayalignError
from rayalign.storage.remote import RemoteFolder, join, local_files
from tests.s3 import Server, credentials, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[Server]:
    """An S3 server that holds the bucket `bucket`."""
    with s3_server() as server:
        yield server


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of a test by its URL."""
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    return join(f"s3://bucket/runs{request.getfixturevalue('s3').query}", tmp_path.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder with a checkpoint and a stage that is done."""
    run = tmp_path / "run"
    checkpoint = run / "stages" / "ppo" / "checkpoints" / "iteration-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "rank0.bin").write_bytes(os.urandom(1 << 20))
    (checkpoint / "manifest.json").write_text("{}")
    (checkpoint.parent / "last").symlink_to(checkpoint.name)
    (checkpoint.parent / ".iteration-000004.tmp").mkdir()
    (checkpoint.parent / ".iteration-000004.tmp" / "rank0.bin").write_bytes(b"half")
    (run / "stages" / "sft").mkdir()
    (run / "stages" / "sft" / "done.json").write_text('{"hash": "abc"}')
    (run / "journal.jsonl").write_text("one\n")
    (run / "empty").touch()
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in local_files(folder)}


def test_what_was_uploaded_comes_back_elsewhere(url: str, folder: Path, tmp_path: Path) -> None:
    assert RemoteFolder(url).upload(folder) == 5
    assert RemoteFolder(url).download(tmp_path / "other") == 5
    assert contents(tmp_path / "other") == contents(folder)
    names = RemoteFolder(url).names()
    assert not any("tmp" in name or name.endswith("last") for name in names), "nothing half, and no links"


def test_only_changes_are_sent_and_what_is_gone_is_deleted(url: str, folder: Path) -> None:
    remote = RemoteFolder(url)
    remote.upload(folder)
    assert remote.upload(folder) == 0
    with (folder / "journal.jsonl").open("a") as journal:
        journal.write("two\n")
    shutil.rmtree(folder / "stages" / "ppo" / "checkpoints" / "iteration-000002")
    assert remote.upload(folder) == 1
    assert remote.names() == {"journal.jsonl": 8, "empty": 0, "stages/sft/done.json": 15}


def test_a_folder_that_came_from_there_is_known_to_be_there(url: str, folder: Path, tmp_path: Path) -> None:
    RemoteFolder(url).upload(folder)
    remote = RemoteFolder(url)
    remote.download(tmp_path / "other")
    assert remote.upload(tmp_path / "other") == 0
    (tmp_path / "other" / "empty").unlink()
    remote.upload(tmp_path / "other")
    assert "empty" not in remote.names()


def test_files_that_vouch_for_others_come_last_and_go_first(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteFolder(url)
    order: list[str] = []
    write = RemoteFolder._write

    def noting(self: RemoteFolder, path: str, pieces: object) -> None:
        order.append(Path(path).name)
        write(self, path, pieces)  # type: ignore[arg-type]

    monkeypatch.setattr(RemoteFolder, "_write", noting)
    remote.upload(folder)
    assert set(order[-2:]) == {"manifest.json", "done.json"}


def test_nothing_is_there_before_the_first_run(url: str, tmp_path: Path) -> None:
    remote = RemoteFolder(url)
    remote.check_access()
    assert remote.names() == {} and remote.download(tmp_path / "none") == 0


def test_a_bucket_that_is_not_there_is_one_sentence(s3: Server, folder: Path) -> None:
    remote = RemoteFolder(f"s3://nobodys/runs{s3.query}")
    with pytest.raises(InputError, match=r"s3://nobodys/runs.* cannot be written: .*; check its name and region"):
        remote.check_access()
    with pytest.raises(RayalignError, match="did not take or give a file"):
        remote.upload(folder)


def test_a_store_that_may_only_be_read_is_one_sentence(
    s3: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = RemoteFolder(f"s3://bucket/forbidden{s3.query}")
    remote.upload(folder)
    reading = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
    reader = new_user(s3, "reader", {"Version": "2012-10-17", "Statement": [reading]})
    stranger = new_user(s3, "stranger")
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # from now on policies count
    denied = (
        "AWS Error ACCESS_DENIED .*; check its name and region, and that this process has credentials to list, read"
    )
    with credentials(*reader):
        remote = RemoteFolder(remote.url)
        assert len(remote.names()) == 5
        with pytest.raises(InputError, match=rf"s3://bucket/forbidden\S* cannot be written: .*{denied}"):
            remote.check_access()
    with credentials(*stranger):
        remote = RemoteFolder(remote.url)
        for request in (remote.names, lambda: remote.upload(folder)):
            with pytest.raises(RayalignError, match=rf"/forbidden\S* did not take or give a file: .*{denied}"):
                request()


def new_user(s3: Server, name: str, policy: object = None) -> tuple[str, str]:
    """The credentials of a new user, who may do what the policy allows and nothing without one."""
    iam = s3.client("iam")
    iam.create_user(UserName=name)
    if policy is not None:
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.mark.parametrize("url", ["s4://bucket/runs", "s3://"])
def test_a_url_of_no_store_is_one_sentence(url: str) -> None:
    with pytest.raises(InputError, match=f"{url} cannot be opened: .*; give a URL such as s3://BUCKET/runs"):
        RemoteFolder(url)


def test_a_query_stays_at_the_end() -> None:
    assert join("s3://bucket/runs/?region=x", "study", "report.html") == "s3://bucket/runs/study/report.html?region=x"
    assert join("gs://bucket", "study") == "gs://bucket/study"
