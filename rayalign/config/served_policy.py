"""What `rayalign serve-policy` serves: one base, an adapter for each preference, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from rayalign.config.annotators import AccessConfig
from rayalign.config.section import Section

__all__ = ["ServedPolicyConfig"]


class ServedPolicyConfig(Section):
    """A served policy, as the options of the command give it."""

    model: str
    """the base: a folder, or a hub name"""
    adapters: dict[str, str] = {}
    """id of a preference -> the folder of its adapter"""
    preferences: str | None = None
    """a YAML file of further preferences, as `data.preferences.file` of a job"""
    merged: PositiveInt = 32
    """merged adapters kept, on disk and in memory; the least recently used goes first"""
    profiles_at_once: PositiveInt = 16
    """profiles in one batch of the engine; further ones wait"""
    cache: str = "runs/policy"
    """folder of the merged adapters"""
    context: PositiveInt | None = None
    """longest prompt and answer together [tokens]; None: the model's own, at most 4096"""
    dtype: Literal["float32", "bfloat16"] | None = None
    """None: float32 on a CPU, bfloat16 on a GPU"""
    gpus: NonNegativeInt = 0
    """over which the base is split"""
    threads: PositiveInt = 1
    """of the engine, on a CPU"""
    kv_bytes: PositiveInt | None = None
    """of the engine's key-value cache; None: room for 16 whole contexts, at least 128 MiB"""
    host: str = "127.0.0.1"
    port: NonNegativeInt = Field(default=8910, lt=65536)
    queue: PositiveInt = 1024
    """requests in progress or waiting; more are refused with 429"""
    request_timeout: PositiveFloat = 600.0
    """seconds until a request has been answered"""
    access: AccessConfig = AccessConfig()
