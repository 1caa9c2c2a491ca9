"""Tensors between actors: kept in the object store by who made them, passed on by reference.

A handle is a list that holds one reference: Ray resolves a bare reference among the arguments, and brings a small
result home to the driver; neither happens to what stands inside a list.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from ray.exceptions import ObjectLostError

from rayalign.algorithms.ops import token_tensors
from rayalign.errors import LostDataError
from rayalign.types import Batch, Rollouts
from rayalign.weights.buckets import Bucket
from rayalign.weights.paths.base import PathConfig, WeightPath
from rayalign.weights.paths.make import make_path

Handle = list[ray.ObjectRef]


def keep(value: Any) -> Handle:
    """Put a value into the object store."""
    return [ray.put(value)]


def fetch(handle: Handle, timeout: float) -> Any:
    """Take a value that another actor kept.

    Raises:
        LostDataError: that actor has ended.
    """
    try:
        return ray.get(handle[0], timeout=timeout)
    except ObjectLostError as error:
        raise LostDataError("what another actor had kept is lost with its process; it has to be made again") from error


def rank_rows(rollouts: Rollouts, rank: int, world: int) -> Batch:
    """The rank's share of the rows, with what a forward pass reads; shares follow each other in the batch's order."""
    rows_B = torch.arange(len(rollouts.group_B))
    return Batch(token_tensors(rollouts), rows_B).rows(rows_B.tensor_split(world)[rank])


def path_end(config: PathConfig) -> WeightPath:
    """One end of a weight path, with the object store of this session for those that use it."""

    def get(ref: ray.ObjectRef) -> Bucket:
        bucket: Bucket = ray.get(ref, timeout=config.timeout)
        return bucket

    return make_path(config, ray.put, get)
