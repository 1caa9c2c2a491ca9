"""Whether a model folder can be opened, without reading its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rayalign.errors import InputError
from rayalign.models.adapter_folder import AdapterFolder
from rayalign.models.adapter_output import FOLDER
from rayalign.models.configuration import FOREIGN, first_line, unusable
from rayalign.weights.files import shapes
from rayalign.weights.headers import prove_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_UNSAVED = "its configuration and tokenizer come from the model that it was made from, so correct them there"


def verify_folder(folder: str | Path) -> None:
    """Prove that a folder holds a model whose kind and settings are known, without memory for its weights.

    Raises:
        InputError: it does not, with the remedy.
    """
    prove_folder(Path(folder))
    try:
        _without_weights(Path(folder))
    except FOREIGN as error:
        raise unusable(str(folder), error) from error


def _without_weights(path: Path) -> PreTrainedModel:
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    names: list[str] = config.architectures or []
    kind = getattr(transformers, names[0]) if names else transformers.AutoModel
    with torch.device("meta"):
        model: PreTrainedModel = kind(config) if names else kind.from_config(config)
    return model


def verify_adapter(folder: str | Path) -> None:
    """Open an adapter's folder that was just written: its configuration, names and shapes of its factors.

    Raises:
        InputError: a reader could not open the folder.
    """
    try:
        AdapterFolder.read(Path(folder))
    except FOREIGN as error:
        raise InputError(
            f"{folder} was written but cannot be opened again ({first_line(error)}); {_UNSAVED}"
        ) from error


def verify_saved(folder: str | Path) -> None:
    """Open a model folder that was just written: configuration, tokenizer, names and shapes of weights, any adapter.

    No number is read: the model is built without memory for its weights, so this is quick for models of any size.

    Raises:
        InputError: a reader could not open the folder.
    """
    import transformers

    path = Path(folder)
    try:
        model = _without_weights(path)
        transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except FOREIGN as error:
        raise InputError(f"{path} was written but cannot be opened again ({first_line(error)}); {_UNSAVED}") from error
    model.tie_weights()
    stored = shapes(path)
    for name, parameter in model.named_parameters():
        if stored.get(name) != tuple(parameter.shape):
            raise InputError(
                f"{path} was written but cannot be opened again: {name} is {stored.get(name, 'missing')}, not "
                f"{tuple(parameter.shape)}; {_UNSAVED}"
            )
    if AdapterFolder.stands_at(path / FOLDER):
        verify_adapter(path / FOLDER)
