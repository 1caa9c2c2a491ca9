"""`rayalign merge`: the weighted sum of models or of LoRA adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rayalign.errors import InputError


def merge(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Models, or LoRA adapters.", show_default=False)
    ],
    output: Annotated[Path, typer.Option(help="A folder that does not exist, or is empty.", show_default=False)],
    weights: Annotated[
        str | None, typer.Option(help="One for each folder, as 0.7,0.5,-0.2; default: equal, with sum 1.")
    ] = None,
    mode: Annotated[
        Literal["delta", "factor"] | None,
        typer.Option(help="For adapters: delta (exact, the default), or factor (A and B averaged, inexact)."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="For adapters in mode delta: reduce the result to this rank.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="For adapters: add their sum to this model, and write a whole model.")
    ] = None,
) -> None:
    """Merge models or LoRA adapters: the weighted sum of their parameters."""
    from rayalign.models.merge import merge_folders, merge_into
    from rayalign.weights.files import model_folder

    shares = _weights(weights, len(inputs))
    if base is None:
        merge_folders(inputs, shares, output, mode=mode, rank=rank)
    else:
        merge_into(model_folder(base), inputs, shares, output, mode=mode or "delta", rank=rank)
    typer.echo(output)


def _weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0 / count] * count
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--weights {text!r} is no list of numbers; write one for each folder, as 0.7,0.5,-0.2"
        ) from error
