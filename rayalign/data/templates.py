"""Chat templates by name, for base models that come without one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rayalign.config.explain import nearest
from rayalign.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""needs only an end-of-sequence token"""
_ALPACA = (
    "{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.' }}"
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ '\n\n### Response:\n' }}"
    "{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% elif message.role == 'system' %}{{ '\n\n' + message.content }}"
    "{% else %}{{ '\n\n### Instruction:\n' + message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content + END }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CHATML_END = "<|im_end|>"
TEMPLATES: Mapping[str, str] = MappingProxyType({"default": DEFAULT_TEMPLATE, "alpaca": _ALPACA, "chatml": _CHATML})


def template_text(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The template of a name, or of a file, for a tokenizer.

    ChatML's own end token closes an answer where the tokenizer has it, else the end of sequence.

    Raises:
        InputError: neither a name nor a file of text.
    """
    if name_or_path in TEMPLATES:
        ends = _CHATML_END in tokenizer.get_vocab()
        return TEMPLATES[name_or_path].replace("END", f"'{_CHATML_END}'" if ends else "eos_token")
    problem = template_problem(name_or_path)
    if problem:
        raise InputError(problem)
    return Path(name_or_path).read_text(encoding="utf-8")


def template_problem(name_or_path: str) -> str | None:
    """What is wrong with the name of a template; None where nothing is."""
    if name_or_path in TEMPLATES or Path(name_or_path).is_file():
        return None
    return f"{name_or_path!r} is neither a file nor the name of a template; {nearest(name_or_path, list(TEMPLATES))}"


def has_template(folder: Path) -> bool:
    """Whether the tokenizer of a model folder has a chat template of its own."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
