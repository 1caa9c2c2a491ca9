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
from tests.ports import held_port, open_addresses

ATTACH = """
import sys
from rayalign.cluster.ray_2_60 import loopback_node
from rayalign.cluster.session import Session
from rayalign.config import ClusterConfig
from rayalign.errors import RayalignError
try:
    with loopback_node(), Session(ClusterConfig(address=sys.argv[1])):  # else Ray takes the machine's own address
        pass
except RayalignError as error:
    sys.exit(f"{type(error).__name__}: {error}")
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


def attach(token: str | None, address: str = "") -> subprocess.CompletedProcess[str]:
    """A second driver that connects with that token, to this session or to another address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [sys.executable, "-c", ATTACH, address or ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.ray
def test_a_driver_without_the_token_of_the_session_is_refused_in_one_sentence(ray_session: None) -> None:
    assert attach(os.environ["RAY_AUTH_TOKEN"]).returncode == 0
    address = ray.get_runtime_context().gcs_address
    refusal = (
        f"InputError: the cluster at {address} refuses this process's token; set RAY_AUTH_MODE=token and "
        "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head node"
    )
    with ThreadPoolExecutor(2) as drivers:  # each retries for 20 s
        for refused in drivers.map(attach, (None, "another-token")):
            assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == refusal, refused.stderr


@pytest.mark.ray
def test_an_address_where_no_cluster_answers_is_one_sentence() -> None:
    with held_port() as port:
        lost = attach(None, f"127.0.0.1:{port}")
    sentence = f"InputError: no Ray cluster answers at 127.0.0.1:{port}; start one with `ray start --head`, or correct "
    assert lost.returncode == 1 and lost.stderr.startswith(sentence) and lost.stderr.count("\n") == 1, lost.stderr


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
        session.Session(ClusterConfig(address="auto")).__enter__()
