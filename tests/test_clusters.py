"""The files of clusters/: what Ray's launcher, KubeRay and Slurm take, and that each grows from nothing and shrinks."""

from __future__ import annotations

import copy
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

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


# KubeRay. The fields of its custom resources that these files may use; KubeRay ignores or refuses others.
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip
FIELDS: Mapping[str, set[str]] = {
    "RayCluster": CLUSTER_FIELDS,
    "RayJob": {
        "entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}  # fmt: skip
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD_FIELDS = {"containers", "volumes", "tolerations"}
CONTAINER_FIELDS = {"name", "image", "envFrom", "env", "ports", "resources", "volumeMounts"}
GPU = "nvidia.com/gpu"


def cluster_of(resource: Tree) -> Tree:
    """The cluster in a resource of KubeRay."""
    spec = resource["spec"]
    inner = {"RayCluster": spec, "RayJob": spec.get("rayClusterSpec"), "RayService": spec.get("rayClusterConfig")}
    cluster: Tree = inner[resource["kind"]]
    return cluster


def problems(resource: Tree) -> Iterator[str]:
    """What KubeRay or Kubernetes would refuse or overlook."""
    if resource["apiVersion"] != "ray.io/v1" or set(resource) != {"apiVersion", "kind", "metadata", "spec"}:
        yield "not a resource of ray.io/v1"
    yield from unknown("spec", resource["spec"], FIELDS[resource["kind"]])
    cluster = cluster_of(resource)
    yield from unknown("cluster", cluster, CLUSTER_FIELDS)
    yield from group_problems("head", cluster["headGroupSpec"], {"rayStartParams", "template"})
    for group in cluster["workerGroupSpecs"]:
        name = group["groupName"]
        yield from group_problems(name, group, GROUP_FIELDS)
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"{name}: replicas are not between the least and the most"


def group_problems(name: str, group: Tree, fields: set[str]) -> Iterator[str]:
    yield from unknown(name, group, fields)
    if any(not isinstance(value, str) for value in group["rayStartParams"].values()):
        yield f"{name}: rayStartParams are texts"
    pod = group["template"]["spec"]
    yield from unknown(f"{name} pod", pod, POD_FIELDS)
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in pod["containers"]:
        yield from unknown(f"{name} container", container, CONTAINER_FIELDS)
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        if mounted - volumes:
            yield f"{name}: no volume {mounted - volumes}"
        resources = container["resources"]
        if resources["limits"].get(GPU) != resources["requests"].get(GPU):
            yield f"{name}: Kubernetes wants as many GPUs requested as allowed"


def unknown(where: str, mapping: Tree, known: set[str]) -> Iterator[str]:
    for key in mapping.keys() - known:
        yield f"{where}: {key} is not known"


@pytest.mark.parametrize("name", KUBERNETES)
def test_kuberay_takes_the_file(name: str) -> None:
    assert list(problems(load(name))) == []


def rename(mapping: Tree, old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


def first_worker(resource: Tree) -> Tree:
    group: Tree = cluster_of(resource)["workerGroupSpecs"][0]
    return group


def worker_container(resource: Tree) -> Tree:
    container: Tree = first_worker(resource)["template"]["spec"]["containers"][0]
    return container


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda r: rename(r["spec"], "autoscalerOptions", "autoscalingOptions"), "autoscalingOptions is not known"),
        (lambda r: first_worker(r).update(minReplica=0), "gpu: minReplica is not known"),
        (lambda r: first_worker(r).update(replicas=5), "gpu: replicas are not between the least and the most"),
        (lambda r: r["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "rayStartParams are texts"),
        (lambda r: worker_container(r)["resources"]["limits"].pop(GPU), "as many GPUs requested as allowed"),
        (lambda r: first_worker(r)["template"]["spec"].pop("volumes"), "gpu: no volume"),
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
    container = gpu["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"][GPU] > 0
    assert {"name": "memory", "mountPath": "/dev/shm"} in container["volumeMounts"], "or Ray's store has 64 MiB"


def test_a_job_of_its_own_has_the_same_cluster_and_starts_again() -> None:
    job = load("kuberay/job.yaml")
    assert cluster_of(job) == cluster_of(load("kuberay/cluster.yaml"))
    assert job["spec"]["backoffLimit"] > 0 and job["spec"]["shutdownAfterJobFinishes"]
    assert "output=/shared/" in job["spec"]["entrypoint"], "a second cluster goes on from what the first one wrote"


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_has_the_version_of_ray_that_is_pinned(name: str) -> None:
    constraints = (CLUSTERS.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster_of(load(name))['rayVersion']}" in constraints


# Slurm, with stand-ins for its commands, Ray's and rayalign, which note what they were called with.
STAND_IN = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >> "$CALLS"
case $name in
  scontrol) printf 'one\\ntwo\\nthree\\n' ;;
  hostname) echo 10.0.0.1 ;;
  srun) while [[ $1 == --* ]]; do shift; done; "$@" ;;
  rayalign) echo "RAY_ADDRESS $RAY_ADDRESS ${#RAY_AUTH_TOKEN}" >> "$CALLS"; exit 7 ;;
esac
"""


def test_slurm_starts_a_head_a_worker_on_each_other_machine_and_the_run(tmp_path: Path) -> None:
    programs, calls = tmp_path / ".venv" / "bin", tmp_path / "calls"
    programs.mkdir(parents=True)
    for name in ("scontrol", "srun", "hostname", "ray", "rayalign"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "64"}
    environment = {**os.environ, **slurm, "SLURM_GPUS_ON_NODE": "8", "CALLS": str(calls)}
    command = ["bash", str(CLUSTERS / "slurm.sh"), "jobs/hh rlhf.yaml", "output=/shared/runs"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, "the run's own exit code"
    address = "10.0.0.1:24567"
    head = "ray start --head --node-ip-address=10.0.0.1 --port=24567 --num-cpus=64 --num-gpus=8 --block"
    worker = f"ray start --address={address} --num-cpus=64 --num-gpus=8 --block"
    deadline = time.monotonic() + 30  # the stand-ins of head and workers run beside the script
    lines: list[str] = []
    while (lines.count(head), lines.count(worker)) != (1, 2):
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)
        lines = calls.read_text().splitlines()
    assert "rayalign run jobs/hh rlhf.yaml output=/shared/runs" in lines
    (told,) = [line for line in lines if line.startswith("RAY_ADDRESS")]
    assert told.split()[1] == address and int(told.split()[2]) == 64
