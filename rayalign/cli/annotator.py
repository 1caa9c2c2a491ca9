"""The annotator's commands: `serve`, `token` and `annotate`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.annotator.asking.api import Annotation, PairItem
    from rayalign.annotator.asking.estimates import Summary

At = Annotated[
    str | None,
    typer.Option(help="URL of a running service, or a pool's file; default: the embedded pool.", show_default=False),
]
Name = Annotated[str, typer.Option("--annotator", help="A name of the pool; `pool` draws one for each instruction.")]


def serve(
    file: Annotated[Path | None, typer.Argument(help="A pool's file (YAML).", show_default="the embedded pool")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Overrides the file.", show_default=False)] = None,
    host: Annotated[str | None, typer.Option(help="Overrides the file.", show_default=False)] = None,
) -> None:
    """Serve annotators over HTTP until Ctrl-C; the page for people is at /."""
    from rayalign.annotator.service_file import load_service
    from rayalign.waiting import reported

    report = partial(typer.echo, err=True)
    options = {"port": port, "host": host}
    overrides = {name: value for name, value in options.items() if value is not None}
    config = load_service(file).model_copy(update=overrides)
    with reported("Ray's libraries to load", report):
        from rayalign.pipeline.serving import serve_until_stopped
    serve_until_stopped(config, typer.echo, report)


def token(name: Annotated[str, typer.Argument(help="The holder of the token.", show_default=False)]) -> None:
    """Make a bearer token. The service needs only the printed line, and its holder only the token."""
    from rayalign.annotator.web.access import digest

    if not name.strip() or not name.isprintable() or name.startswith("#"):
        raise InputError(f"token: no line of a token file can hold the name {name!r}; give another")
    secret = secrets.token_urlsafe(32)
    typer.echo(f"token, shown once:             {secret}")
    typer.echo(f"line for access.token_file:    {name} {digest(secret)}")


def annotate(
    pairs: Annotated[Path, typer.Argument(help="Rows with instruction, output_1, output_2.", show_default=False)],
    at: At = None,
    annotator: Name = "pool",
    output: Annotated[Path | None, typer.Option(help="Default: beside the pairs.", show_default=False)] = None,
    seed: int = 0,
    both_orders: Annotated[bool, typer.Option(help="Judge each pair in both orders; disagreement is a tie.")] = False,
    flip: Annotated[float, typer.Option(help="Share of labels drawn at random, from 0 to 0.5.")] = 0.0,
    estimate: Annotated[bool, typer.Option(help="Estimate the cost, and request no verdict.")] = False,
) -> None:
    """Annotate a file of pairs, in the public schema; cached verdicts are not requested again."""
    from rayalign.annotator.asking.connect import announce, connect, item_in
    from rayalign.annotator.asking.estimates import Summary
    from rayalign.evaluation.tables import read_rows
    from rayalign.waiting import reported

    def items() -> Iterator[PairItem]:
        return (item_in(row, where) for row, where in read_rows(pairs))

    options = {"seed": seed, "both_orders": both_orders, "flip": flip}
    target, summary = output or pairs.with_name("annotations.json"), Summary()

    def report(line: str) -> None:
        typer.echo(line, err=True)

    with closing(connect(at, annotator)) as service:
        with reported("the estimated cost", report):
            if estimate:
                return typer.echo(service.estimate(items(), **options))
            announce(service, items(), report, **options)
        annotations = map(summary.counted, service.annotate(items(), **options))  # type: ignore[arg-type]
        with reported(lambda: f"annotations: {summary.rows} are there", report):
            _write(target, (row for row, _ in read_rows(pairs)), annotations)
    typer.echo(f"{_summary_line(summary)}: {target}")


def _summary_line(summary: Summary) -> str:
    counts = f"{summary.absent} of them without a preference, {summary.cached} known before"
    parts = [f"{summary.rows} annotations, {counts}"]
    if summary.price:
        parts.append(f"${summary.price:.4f} spent")
    if summary.position_bias is not None:
        parts.append(f"position bias {summary.position_bias:+.3f}")
    return ", ".join(parts)


def _write(path: Path, rows: Iterable[dict[str, Any]], annotations: Iterator[Annotation]) -> None:
    """Writes the annotations file atomically."""
    from rayalign.annotator.asking.connect import public
    from rayalign.evaluation.tables import write_text

    def parts() -> Iterator[str]:
        before, between, end = ("", "\n", "\n") if path.name.endswith(".jsonl") else ("[", ",\n", "]\n")
        for row, annotation in zip(rows, annotations, strict=True):
            yield before + json.dumps(public(row, annotation))
            before = between
        yield end

    write_text(path, parts())
