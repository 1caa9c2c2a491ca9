"""The files of clusters/: what Ray's launcher, KubeRay and Slurm take, and that each grows from nothing and shrinks."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests import kuberay

CLUSTERS = Path(__file__).parents[1] / "clusters"
CLOUDS = ["aws.yaml", "gcp.yaml"]
LAUNCHED = [*CLOUDS, "local.yaml"]
KUBERNETES = ["kuberay/cluster.yaml", "kuberay/job.yaml", "kuberay/annotator.yaml"]
Tree = dict[str, Any]


def load(name: str) -> Tree:
    tree: Tree = yaml.safe_load((CLUSTERS / name).read_text(encoding="utf-8"))
    return tree


# Ray's launcher


def prepared(config: Tree) -> Tree:
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready: Tree = prepare_config(copy.deepcopy(config))
    validate_config(ready)
    return ready


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_takes_the_file(name: str) -> None:
    config = prepared(load(name))
    assert config["head_node_type"] in config["available_node_types"]


def test_the_launchers_schema_refuses_a_key_that_it_does_not_know() -> None:
    config = load("aws.yaml")
    config["available_node_types"]["gpu"]["max_worker"] = 4
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        prepared(config)


@pytest.mark.parametrize("name", CLOUDS)
def test_machines_with_gpus_come_from_zero_on_spot_and_go_when_idle(name: str) -> None:
    config = load(name)
    types = prepared(config)["available_node_types"]
    assert "GPU" not in types["head"]["resources"]
    gpu = types["gpu"]
    assert (gpu["min_workers"], gpu["resources"]["GPU"]) == (0, 8)
    assert 0 < gpu["max_workers"] <= config["max_workers"] and config["idle_timeout_minutes"] > 0
    assert "spot" in str(gpu["node_config"]).lower()


@pytest.mark.parametrize("name", LAUNCHED)
def test_every_machine_gets_this_project_and_the_token(name: str) -> None:
    config = load(name)
    set_up = "\n".join(config["setup_commands"])
    assert "make setup" in set_up or ("constraints.txt" in set_up and "--editable" in set_up)
    assert "~/.ray/auth_token" in config["file_mounts"]
    for kind in ("head", "worker"):
        start = config[f"{kind}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        assert "~/rayalign/.venv/bin:$PATH" in start, "or jobs find no rayalign"


@pytest.mark.parametrize("name", CLOUDS)
def test_machines_share_a_file_system(name: str) -> None:
    assert any(" mount -t nfs" in command for command in load(name)["setup_commands"])


# KubeRay
GPU = "nvidia.com/gpu"


def cluster_of(resource: Tree) -> Tree:
    """The cluster in a resource of KubeRay."""
    spec = resource["spec"]
    inner = {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec"), "RayService": spec.get("rayClusterConfig")}
    cluster: Tree = inner[resource["kind"]]
    return cluster


def problems(resource: Tree) -> Iterator[str]:
    """What KubeRay or Kubernetes would refuse or overlook."""
    yield from kuberay.departures(resource, kuberay.used(resource["kind"]))
    cluster = cluster_of(resource)
    yield from pod_problems("head", cluster["headGroupSpec"]["template"]["spec"])
    for group in cluster["workerGroupSpecs"]:
        name = group["groupName"]
        yield from pod_problems(name, group["template"]["spec"])
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{name}: replicas are not between the least and the most"


def pod_problems(name: str, pod: Tree) -> Iterator[str]:
    """What no schema knows."""
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        if mounted - volumes:
            yield f"{name}: no volume {mounted - volumes}"
        resources = container["resources"]
        if resources["limits"].get(GPU) != resources["requests"].get(GPU):
            yield f"{name}: Kubernetes wants as many GPUs requested as allowed"


@pytest.mark.parametrize("name", KUBERNETES)
def test_kuberay_takes_the_file(name: str) -> None:
    assert list(problems(load(name))) == []


@pytest.fixture(scope="module")
def definitions(test_data: Path) -> Path:
    """The folder of KubeRay's own schemas, which clusters/README.md says how to get."""
    folder = test_data / "kuberay"
    if not folder.is_dir():
        pytest.skip("the folder of data samples has no schemas of KubeRay")
    return folder


@pytest.mark.parametrize("name", KUBERNETES)
def test_kuberays_own_schema_takes_the_file(name: str, definitions: Path) -> None:
    resource = load(name)
    schema = kuberay.published(resource["kind"], definitions)
    assert list(kuberay.departures(resource, schema)) == []
    first_worker(resource)["template"]["spec"]["container"] = []
    assert any("'container' was unexpected" in text for text in kuberay.departures(resource, schema))


@pytest.mark.parametrize("kind", kuberay.KINDS)
def test_what_our_files_may_use_is_what_kuberay_has(kind: str, definitions: Path) -> None:
    schema = kuberay.published(kind, definitions)
    assert list(kuberay.strangers(kuberay.USED[kind], schema["properties"]["spec"])) == []


def rename(mapping: Tree, old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


def first_worker(resource: Tree) -> Tree:
    group: Tree = cluster_of(resource)["workerGroupSpecs"][0]
    return group


def pod(resource: Tree) -> Tree:
    spec: Tree = first_worker(resource)["template"]["spec"]
    return spec


def container(resource: Tree) -> Tree:
    first: Tree = pod(resource)["containers"][0]
    return first


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda r: rename(r["spec"], "autoscalerOptions", "autoscalingOptions"), "'autoscalingOptions' was unexpected"),
        (lambda r: r["spec"]["autoscalerOptions"].update(idleTimeoutSeconds="600"), "'600' is not of type 'integer'"),
        (lambda r: r["spec"].update(authOptions="token"), "$.spec.authOptions: 'token' is not of type 'object'"),
        (lambda r: r["spec"]["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda r: r["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "0 is not of type 'string'"),
        (lambda r: first_worker(r).update(minReplica=0), "'minReplica' was unexpected"),
        (lambda r: first_worker(r).update(replicas=5), "gpu: replicas are not between the least and the most"),
        (lambda r: first_worker(r).update(maxReplicas="4"), "'4' is not of type 'integer'"),
        (lambda r: first_worker(r)["template"].update(containers=[]), "'containers' was unexpected"),
        (lambda r: pod(r)["tolerations"][0].update(operator="Exist"), "'Exist' is not one of"),
        (lambda r: pod(r)["volumes"][0].update(claimName="shared"), "'claimName' was unexpected"),
        (lambda r: container(r).update(envFrom=[{"secret": {"name": "keys"}}]), "'secret' was unexpected"),
        (lambda r: container(r).update(ports=[{"containerPort": "8000"}]), "'8000' is not of type 'integer'"),
        (lambda r: container(r)["resources"].update(cpu=4), "'cpu' was unexpected"),
        (lambda r: container(r)["resources"]["limits"].update(memory="800 GB"), "'800 GB' does not match"),
        (lambda r: container(r)["resources"]["limits"].pop(GPU), "as many GPUs requested as allowed"),
        (lambda r: pod(r)["volumes"].pop(), "gpu: no volume {'memory'}"),
    ],
)
def test_the_check_finds_what_kuberay_would_refuse(damage: Callable[[Tree], object], problem: str) -> None:
    resource = copy.deepcopy(load("kuberay/cluster.yaml"))
    damage(resource)
    assert any(problem in text for text in problems(resource))


@pytest.mark.parametrize("name", KUBERNETES)
def test_workers_with_gpus_come_from_zero_and_go_when_idle(name: str) -> None:
    cluster = cluster_of(load(name))
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["idleTimeoutSeconds"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    (gpu,) = [group for group in cluster["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert gpu["minReplicas"] == 0 < gpu["maxReplicas"]
    worker = gpu["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"][GPU] > 0
    assert {"name": "memory", "mountPath": "/dev/shm"} in worker["volumeMounts"], "or Ray's store has 64 MiB"


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_image_is_built_from_this_project(name: str) -> None:
    text = (CLUSTERS / name).read_text(encoding="utf-8")
    set_up = re.search(r"# +docker build -f (clusters/Dockerfile\.\w+) -t IMAGE \. && docker push IMAGE", text)
    assert set_up is not None
    dockerfile = (CLUSTERS.parent / set_up[1]).read_text(encoding="utf-8")
    assert "COPY rayalign rayalign" in dockerfile and "--constraint constraints.txt --editable" in dockerfile
    assert "ENV PATH=/opt/rayalign/.venv/bin:$PATH" in dockerfile, "or jobs find no rayalign"
    cluster = cluster_of(load(name))
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        images = {each["image"] for each in group["template"]["spec"]["containers"]}
        assert images == {"IMAGE"}


def test_a_job_of_its_own_has_the_same_cluster_and_starts_again() -> None:
    job = load("kuberay/job.yaml")
    assert cluster_of(job) == cluster_of(load("kuberay/cluster.yaml"))
    assert job["spec"]["backoffLimit"] > 0 and job["spec"]["shutdownAfterJobFinishes"]
    assert "output=/shared/" in job["spec"]["entrypoint"], "a second cluster goes on from what the first one wrote"


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_has_the_version_of_ray_that_is_pinned(name: str) -> None:
    constraints = (CLUSTERS.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster_of(load(name))['rayVersion']}" in constraints


# Slurm, with stand-ins for its commands, Python, uv, Ray's and rayalign, which note what they were called with.
STAND_IN = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >> "$CALLS"
make() { mkdir -p .venv/bin; for program; do cp "$0" .venv/bin/$program; done; }
case $name in
  scontrol) printf 'one\\ntwo\\nthree\\n' ;;
  hostname) echo 10.0.0.1 ;;
  srun) while [[ $1 == --* ]]; do shift; done; "$@" ;;
  python3.11) make pip uv ;;
  uv) make ray rayalign ;;
  rayalign) echo "RAY_ADDRESS $RAY_ADDRESS ${#RAY_AUTH_TOKEN}" >> "$CALLS"; exit 7 ;;
esac
"""
SET_UP = "uv pip install --python .venv/bin/python --constraint constraints.txt --editable .[gpu]"


@dataclass(frozen=True, slots=True)
class Slurm:
    """A working folder, and Slurm's commands."""

    folder: Path
    calls: Path

    def run(self) -> int:
        """The script's exit code."""
        slurm = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "64"}
        path = f"{self.folder / 'programs'}:{os.environ['PATH']}"
        environment = {**os.environ, **slurm, "SLURM_GPUS_ON_NODE": "8", "CALLS": str(self.calls), "PATH": path}
        command = ["bash", str(CLUSTERS / "slurm.sh"), "jobs/hh rlhf.yaml", "output=/shared/runs"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.returncode

    def lines(self) -> list[str]:
        """What was called, in its order."""
        return self.calls.read_text().splitlines()


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    """A folder without .venv."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("scontrol", "srun", "hostname", "python3.11"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (tmp_path / "constraints.txt").touch()
    return Slurm(tmp_path, tmp_path / "calls")


def test_slurm_starts_a_head_a_worker_on_each_other_machine_and_the_run(slurm: Slurm) -> None:
    assert slurm.run() == 7, "the run's own exit code"
    address = "10.0.0.1:24567"
    head = "ray start --head --node-ip-address=10.0.0.1 --port=24567 --num-cpus=64 --num-gpus=8 --block"
    worker = f"ray start --address={address} --num-cpus=64 --num-gpus=8 --block"
    deadline = time.monotonic() + 30  # the stand-ins of head and workers run beside the script
    while (slurm.lines().count(head), slurm.lines().count(worker)) != (1, 2):
        assert time.monotonic() < deadline, slurm.lines()
        time.sleep(0.1)
    assert "rayalign run jobs/hh rlhf.yaml output=/shared/runs" in slurm.lines()
    (environment,) = [line.split() for line in slurm.lines() if line.startswith("RAY_ADDRESS")]
    assert environment[1] == address and int(environment[2]) == 64


def test_the_first_job_of_slurm_installs_this_project_and_the_next_one_finds_it(slurm: Slurm) -> None:
    slurm.run()
    lines = slurm.lines()
    run = lines.index("rayalign run jobs/hh rlhf.yaml output=/shared/runs")
    assert lines.index("python3.11 -m venv .venv") < lines.index(SET_UP) < run
    slurm.run()
    assert slurm.lines().count(SET_UP) == 1
