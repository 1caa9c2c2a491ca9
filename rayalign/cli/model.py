"""`rayalign model`: models as differences from the raw model that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Make and apply differences of models, the form in which some are published.", no_args_is_help=True
)

Raw = Annotated[Path, typer.Argument(help="The model that it was made from.", show_default=False)]
Output = Annotated[Path, typer.Option(help="A folder that does not exist, or is empty.", show_default=False)]


@app.command()
def diff(
    tuned: Annotated[Path, typer.Argument(help="A model folder.", show_default=False)],
    raw: Raw,
    output: Output,
    dtype: Annotated[
        Literal["same", "float32"], typer.Option(help="Of the differences: the model's own type, or float32.")
    ] = "same",
) -> None:
    """Write tuned - raw, with a checksum of what a recovery gives."""
    import torch

    from rayalign.models.difference import write_difference

    difference = write_difference(tuned, raw, output, dtype=torch.float32 if dtype == "float32" else None)
    exact = "a recovery is exact"
    if difference.unequal:
        exact = f"a recovery differs in {difference.unequal} numbers, by at most {difference.largest_error:.3g}"
    typer.echo(f"{output}: sum {difference.sum:.6f}, checksum {difference.checksum}; {exact}")


@app.command()
def recover(
    difference: Annotated[
        Path, typer.Argument(help="A folder that `diff` wrote, or a published one.", show_default=False)
    ],
    raw: Raw,
    output: Output,
    grown: Annotated[
        Literal["mean", "whole"],
        typer.Option(
            help="Of published differences: how embeddings that grew are stored, against the raw ones padded with "
            "their mean (Stanford Alpaca, Wombat), or whole (AlpacaFarm)."
        ),
    ] = "mean",
) -> None:
    """Write raw + difference, and prove it by the checksum."""
    from rayalign.models.difference import recover as write_recovered

    promised = write_recovered(difference, raw, output, grown=grown)
    proof = f"checksum {promised.checksum} agrees" if promised else "no checksum stands beside this difference"
    typer.echo(f"{output}: {proof}")
