from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray._private.utils import check_version_info

from rayalign.cluster import session
from rayalign.config import ClusterConfig
from rayalign.errors import InputError
from tests.ports import open_addresses

ATTACH = """
import ray, sys
from rayalign.cluster.ray_2_60 import loopback_node
with loopback_node():  # or Ray replaces the session's address with the machine's own
    ray.init(address=sys.argv[1], log_to_driver=False)
"""


@ray.remote(num_cpus=0)
class Waiting:
    def node(self) -> str:
        return ray.util.get_node_ip_address()


@pytest.mark.ray
def test_a_session_of_one_machine_listens_on_loopback_alone(ray_session: None) -> None:
    actor = Waiting.remote()
    assert ray.get(actor.node.remote(), timeout=60) == "127.0.0.1"
    assert open_addresses() == set()
    ray.kill(actor)


def attach(token: str | None) -> subprocess.CompletedProcess[str]:
    """A second driver that connects to this session with that token."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", ATTACH, ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.ray
def test_a_driver_without_the_token_of_the_session_is_refused(ray_session: None) -> None:
    assert attach(os.environ["RAY_AUTH_TOKEN"]).returncode == 0
    with ThreadPoolExecutor(2) as drivers:  # each retries for 20 s
        for refused in drivers.map(attach, (None, "another-token")):
            assert refused.returncode != 0 and "AuthenticationError" in refused.stderr, refused.stderr


def test_the_environment_is_as_before_once_a_session_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-a-cluster")
    monkeypatch.setattr(session, "reload_authentication", lambda: None)  # other tests' session goes on
    with session.own_token():
        first = os.environ["RAY_AUTH_TOKEN"]
    with session.own_token():
        assert os.environ["RAY_AUTH_TOKEN"] not in ("of-a-cluster", first)
    assert os.environ["RAY_AUTH_TOKEN"] == "of-a-cluster"


@pytest.mark.parametrize(("version", "python"), [("2.40.0", platform.python_version()), (ray.__version__, "3.12.1")])
def test_a_cluster_with_other_versions_is_one_sentence(
    version: str, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(**_: object) -> None:  # Ray's own comparison, which a driver makes when it joins
        check_version_info({"ray_version": version, "python_version": python}, "this process")

    monkeypatch.setattr(ray, "init", join)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # other tests' session goes on
    with pytest.raises(InputError, match=rf"has Ray {version} with Python {python}, and this process .*; start the"):
        session.Session(ClusterConfig(address="10.0.0.1:6379")).__enter__()
