"""What an engine that answers dialogues takes and returns; imports no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ChatPrompt = str | Sequence[Mapping[str, str]]
"""a text to continue, or a dialogue of `role` and `content`"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote."""

    text: str
    finish_reason: str
    """stop or length"""
    logprobs: tuple[Mapping[str, float], ...]
    """for each token: its text and those of the likeliest others -> log-prob; the token itself first"""
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ChatAdapter:
    """A LoRA adapter on disk."""

    number: int
    """from 1 on; never that of another adapter in the same engine"""
    folder: str


@dataclass(frozen=True, slots=True)
class AdapterRoom:
    """What an engine must be able to hold beside its base."""

    rank: int
    """the highest of an adapter"""
    targets: tuple[str, ...]
    """last parts of the names of the layers that adapters move"""
    at_once: int
    """adapters in one step"""
    in_memory: int
    """adapters in host memory"""
