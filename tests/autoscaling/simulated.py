"""Ray's simulated autoscaling cluster: its own autoscaler, whose machines are processes of this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.heads import Head, free_ports, ray_head

HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""by which Ray's simulation knows the head"""


@contextmanager
def autoscaling_head(
    folder: Path, *, most: int, cpus: int = 2, idle_minutes: float = 0.1, **variables: str
) -> Iterator[Head]:
    """A head without CPUs, whose autoscaler adds machines of `cpus`, `most` of them, and removes them when idle."""
    ports = free_ports(4)
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(_config(most, cpus, idle_minutes, f"127.0.0.1:{ports[0]}")))
    arguments = ["--num-cpus=0", f"--autoscaling-config={path}"]
    own = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    with ray_head(folder / "head.log", *arguments, ports=ports, **own, **variables) as head:
        yield head


def _config(most: int, cpus: int, idle_minutes: float, address: str) -> dict[str, object]:
    return {
        "cluster_name": "simulated",
        "max_workers": most,
        "idle_timeout_minutes": idle_minutes,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": HEAD_ID,
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": cpus}, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }
