"""What KubeRay and Kubernetes accept, as JSON Schemas: those of KubeRay itself, and the part that our files use.

KubeRay ignores a field that it does not know, so here such a field is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]
Tree = dict[str, Any]
KINDS = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "RayService": "ray.io_rayservices.yaml",
}
"""each kind's file in ray-operator/config/crd/bases of KubeRay"""
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
SWITCH: Schema = {"type": "boolean"}
QUANTITY: Schema = {"type": ["integer", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[numkMGTPE])?$"}


def fields(*required: str, **properties: Schema) -> Schema:
    """An object with these fields alone."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def table(values: Schema) -> Schema:
    """An object with fields of any name."""
    return {"type": "object", "additionalProperties": values}


def several(items: Schema) -> Schema:
    """At least one of these."""
    return {"type": "array", "items": items, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


CONTAINER = fields(
    "name",
    "image",
    "resources",
    name=TEXT,
    image=TEXT,
    env=several(fields("name", "value", name=TEXT, value=TEXT)),
    envFrom=several(fields(secretRef=fields("name", name=TEXT))),
    ports=several(
        fields("containerPort", name=TEXT, containerPort={"type": "integer", "minimum": 1, "maximum": 65535})
    ),
    resources=fields("requests", "limits", requests=table(QUANTITY), limits=table(QUANTITY)),
    volumeMounts=several(fields("name", "mountPath", name=TEXT, mountPath=TEXT)),
)
VOLUME = fields(
    "name",
    name=TEXT,
    persistentVolumeClaim=fields("claimName", claimName=TEXT),
    emptyDir=fields(medium=one_of("Memory")),
)
TOLERATION = fields(
    key=TEXT, operator=one_of("Exists", "Equal"), effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute")
)
POD = fields(
    "spec",
    spec=fields("containers", containers=several(CONTAINER), volumes=several(VOLUME), tolerations=several(TOLERATION)),
)
HEAD = fields("rayStartParams", "template", rayStartParams=table(TEXT), template=POD)
WORKERS = fields(
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    rayStartParams=table(TEXT),
    template=POD,
)
CLUSTER = fields(
    "rayVersion",
    "headGroupSpec",
    "workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=fields("mode", mode=one_of("disabled", "token")),
    enableInTreeAutoscaling=SWITCH,
    autoscalerOptions=fields(version=one_of("v1", "v2"), idleTimeoutSeconds=COUNT),
    headGroupSpec=HEAD,
    workerGroupSpecs=several(WORKERS),
)
JOB = fields(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=TEXT,
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    shutdownAfterJobFinishes=SWITCH,
    ttlSecondsAfterFinished=COUNT,
    rayClusterSpec=CLUSTER,
)
SERVICE = fields("serveConfigV2", "rayClusterConfig", serveConfigV2=TEXT, rayClusterConfig=CLUSTER)
USED = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}


def used(kind: str) -> Schema:
    """The part of a resource that our files may use."""
    metadata = fields("name", name=TEXT)
    spec = USED[kind]
    return fields(
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        apiVersion=one_of("ray.io/v1"),
        kind=one_of(kind),
        metadata=metadata,
        spec=spec,
    )


def published(kind: str, folder: Path) -> Schema:
    """KubeRay's own schema of a resource, from its file in a folder; what it does not know is refused."""
    text = (folder / KINDS[kind]).read_text(encoding="utf-8")
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # a megabyte
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    _close(schema)
    return schema


def _close(schema: Schema) -> None:
    """Refuse unknown fields in each object of a schema whose fields are named."""
    for inner in schema.get("properties", {}).values():
        _close(inner)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _close(schema[key])
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)


def departures(resource: Tree, schema: Schema) -> Iterator[str]:
    """Where a resource is not as a schema has it."""
    for error in jsonschema.Draft202012Validator(schema).iter_errors(resource):
        yield f"{error.json_path}: {error.message}"


def strangers(part: Schema, whole: Schema, path: str = "$") -> Iterator[str]:
    """The fields of a schema that another one lacks, or has with other types."""
    types = {"string", "integer"} if whole.get("x-kubernetes-int-or-string") else {whole.get("type")}
    own = part["type"]
    if not types.issuperset([own] if isinstance(own, str) else own):
        yield f"{path}: {own} here, {whole.get('type')} there"
    if not set(part.get("enum", ())) <= set(whole.get("enum", part.get("enum", ()))):
        yield f"{path}: {part['enum']} here, {whole['enum']} there"
    for name, field in part.get("properties", {}).items():
        if name not in whole.get("properties", {}):
            yield f"{path}.{name} is not there"
        else:
            yield from strangers(field, whole["properties"][name], f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(part.get(key), dict):
            yield from strangers(part[key], whole[key], f"{path}.{key}")
