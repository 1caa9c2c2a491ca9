"""Model folders without a chat template, beside the one that the job names for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rayalign.data.templates import has_template
from rayalign.models.catalogue import model_path
from rayalign.storage.records import atomic_write


def templated(model: str, template: str | None, home: Path) -> str:
    """The folder that every process loads a model from: its own, or one of links to its files and the template.

    Args:
        model: a folder or a hub name.
        template: name or file, for models without one.
        home: where such folders of links are made.
    """
    if template is None:
        return model_path(model)
    from rayalign.weights.files import model_folder

    source = model_folder(model).resolve()
    if has_template(source) or (source / "adapter_config.json").is_file():
        return model_path(model)
    from rayalign.data.chat import load_tokenizer

    text = str(load_tokenizer(str(source), template=template).chat_template)
    name = hashlib.blake2b(f"{source} {text}".encode(), digest_size=8).hexdigest()
    folder = home.resolve() / f"{source.name}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        link = folder / file.name
        if not link.exists():
            link.symlink_to(file.resolve())
    atomic_write(folder / "chat_template.jinja", [text])
    return str(folder)
