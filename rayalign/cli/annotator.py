"""The commands around the annotator: serve it, give out tokens, annotate files."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayalign.errors import InputError

if TYPE_CHECKING:
    from rayalign.annotator.api import Annotation, PairItem
    from rayalign.annotator.estimates import Summary

At = Annotated[
    str | None,
    typer.Option(help="URL of a running service, or a pool's file; default: the embedded pool.", show_default=False),
]
Name = Annotated[str, typer.Option("--annotator", help="A name of the pool; `pool` draws one for each instruction.")]


def serve(
    file: Annotated[Path | None, typer.Argument(help="A pool's file (YAML).", show_default="the embedded pool")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="In the place of the file's.", show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(help="In the place of the file's.", show_default=False)] = None,
) -> None:
    """Serve annotators over HTTP until Ctrl-C; the page for people is at /."""
    from rayalign.annotator.files import load_service
    from rayalign.pipeline.serving import serve_until_stopped

    given = {name: value for name, value in (("port", port), ("host", host)) if value is not None}
    serve_until_stopped(load_service(file).model_copy(update=given), typer.echo)


def token(name: Annotated[str, typer.Argument(help="Whom the token is for.", show_default=False)]) -> None:
    """Make a bearer token; the service keeps only the printed line, its holder only the token."""
    from rayalign.annotator.web.access import digest

    if not name.strip() or not name.isprintable() or name.startswith("#"):
        raise InputError(f"token: no line of a token file can hold the name {name!r}; give another")
    made = secrets.token_urlsafe(32)
    typer.echo(f"token, shown once:             {made}")
    typer.echo(f"line for access.token_file:    {name} {digest(made)}")


def annotate(
    pairs: Annotated[Path, typer.Argument(help="Rows with instruction, output_1, output_2.", show_default=False)],
    at: At = None,
    annotator: Name = "pool",
    output: Annotated[Path | None, typer.Option(help="Default: beside the pairs.", show_default=False)] = None,
    seed: int = 0,
    both_orders: Annotated[bool, typer.Option(help="Ask in both orders; disagreement is a tie.")] = False,
    flip: Annotated[float, typer.Option(help="Share of labels drawn at random, from 0 to 0.5.")] = 0.0,
    estimate: Annotated[bool, typer.Option(help="Say about what it will cost, and ask no judge.")] = False,
) -> None:
    """Annotate a file of pairs, in the public schema; what has been judged before is not asked again."""
    from rayalign.annotator.connect import announce, connect, item_in
    from rayalign.annotator.estimates import Summary
    from rayalign.evaluation.tables import read_rows

    def items() -> Iterator[PairItem]:
        return (item_in(row, where) for row, where in read_rows(pairs))

    asked, options = connect(at, annotator), {"seed": seed, "both_orders": both_orders, "flip": flip}
    try:
        if estimate:
            return typer.echo(asked.estimate(items(), **options))
        announce(asked, items(), lambda line: typer.echo(line, err=True), **options)
        target, summary = output or pairs.with_name("annotations.json"), Summary()
        made = map(summary.counted, asked.annotate(items(), **options))  # type: ignore[arg-type]
        _write(target, (row for row, _ in read_rows(pairs)), made)
    finally:
        asked.close()
    typer.echo(f"{_told(summary)}: {target}")


def _told(summary: Summary) -> str:
    known = f"{summary.absent} of them without a preference, {summary.cached} known before"
    parts = [f"{summary.rows} annotations, {known}"]
    if summary.price:
        parts.append(f"${summary.price:.4f} spent")
    if summary.position_bias is not None:
        parts.append(f"position bias {summary.position_bias:+.3f}")
    return ", ".join(parts)


def _write(path: Path, rows: Iterable[dict[str, Any]], made: Iterator[Annotation]) -> None:
    """The annotations file, whole or not at all."""
    from rayalign.annotator.connect import public
    from rayalign.evaluation.tables import write_text

    def parts() -> Iterator[str]:
        before, between, end = ("", "\n", "\n") if path.name.endswith(".jsonl") else ("[", ",\n", "]\n")
        for row, annotation in zip(rows, made, strict=True):
            yield before + json.dumps(public(row, annotation))
            before = between
        yield end

    write_text(path, parts())
