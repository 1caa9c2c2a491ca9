"""Folders of models that are written: whole or not at all, with what belongs to a model beside its weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rayalign.errors import InputError

_COMPANIONS = (".jinja", ".json", ".model", ".tiktoken", ".txt")
_NOT_COMPANIONS = ("adapter_config.json", "difference.json", "probe.json", "trainer_state.json")


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what belongs to a model beside its weights: configurations and tokenizer."""
    for file in sorted(source.iterdir()):
        is_companion = file.suffix in _COMPANIONS and file.name not in _NOT_COMPANIONS
        if file.is_file() and is_companion and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, folder / templates.name)


@contextmanager
def whole_folder(out: Path, inputs: Sequence[Path]) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end, or vanishes after a failure."""
    target = out.resolve()
    if target in [path.resolve() for path in inputs]:
        raise InputError(f"{out} is one of the inputs; write to another folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and has content; remove it, or write to another folder")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); write to another folder") from error
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
