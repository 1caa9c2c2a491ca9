"""The machines that a cluster's autoscaler is about to add, by what it reports itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.experimental.internal_kv import _internal_kv_get

DEADLINE = 10
"""seconds until the cluster must have reported what it adds"""


@dataclass(frozen=True, slots=True)
class Pending:
    """Machines that have been ordered and do not work yet."""

    starting: Mapping[str, int]
    """type -> number"""
    failed: int = 0
    """orders that the provider has refused lately, as for lack of spot machines"""

    def __bool__(self) -> bool:
        """Whether anything is on its way, or is tried again."""
        return bool(self.starting) or self.failed > 0

    def __str__(self) -> str:
        parts = [f"{count} x {kind}" for kind, count in sorted(self.starting.items())]
        if self.failed:
            parts.append(f"{self.failed} refused by the provider")
        return ", ".join(parts) or "none"


def pending_machines() -> Pending:
    """What the autoscaler of this session's cluster has ordered; nothing where there is none."""
    if is_autoscaler_v2():
        return _of_second_version(get_cluster_status(ray.get_runtime_context().gcs_address, timeout=DEADLINE))
    status = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = json.loads(status).get("autoscaler_report") if status else None
    return _of_first_version(report or {})


def _of_first_version(report: Mapping[str, Any]) -> Pending:
    starting: Counter[str] = Counter(report.get("pending_launches", {}))
    starting.update(kind for _, kind, _ in report.get("pending_nodes", ()))
    return Pending(dict(starting), len(report.get("failed_nodes", ())))


def _of_second_version(status: Any) -> Pending:
    starting: Counter[str] = Counter()
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    starting.update(_types(status.pending_nodes))
    return Pending(dict(starting), len(status.failed_launches))


def _types(nodes: Iterable[Any]) -> list[str]:
    return [node.ray_node_type_name for node in nodes]
