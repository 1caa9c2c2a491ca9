"""`rayalign serve-policy`: one base, and a merge of adapters for each profile of preferences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rayalign.errors import InputError


def serve_policy(
    model: Annotated[str, typer.Argument(help="The base: a folder, or a hub name.", show_default=False)],
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFERENCE=FOLDER", help="An adapter of the base, once for each.", show_default=False),
    ] = None,
    preferences: Annotated[
        Path | None, typer.Option(help="A YAML file of further preferences.", show_default=False)
    ] = None,
    merged: Annotated[int, typer.Option(min=1, help="Merged adapters kept; the least recently used goes first.")] = 32,
    profiles_at_once: Annotated[
        int, typer.Option(min=1, help="Profiles in one batch of the engine; further ones wait.")
    ] = 16,
    cache: Annotated[Path, typer.Option(help="Folder of the merged adapters.")] = Path("runs/policy"),
    context: Annotated[
        int | None,
        typer.Option(min=1, help="Longest prompt and answer [tokens].", show_default="the model's, at most 4096"),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(help="Of the base.", show_default="float32 on a CPU, bfloat16 on a GPU"),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="Over which the base is split.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of the engine on a CPU.")] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8910,
    host: Annotated[str, typer.Option(help="Another one than this machine's own needs a token.")] = "127.0.0.1",
) -> None:
    """Serve a policy in OpenAI's form until Ctrl-C; each request names a profile of preferences, or the base."""
    from pydantic import ValidationError

    from rayalign.config import ServedPolicyConfig, explain
    from rayalign.pipeline.serving import serve_policy_until_stopped

    options: dict[str, Any] = {
        "model": model,
        "adapters": _adapters(adapter or []),
        "preferences": None if preferences is None else str(preferences),
        "merged": merged,
        "profiles_at_once": profiles_at_once,
        "cache": str(cache),
        "context": context,
        "dtype": dtype,
        "gpus": gpus,
        "threads": threads,
        "host": host,
        "port": port,
    }
    try:
        config = ServedPolicyConfig.model_validate(options)
    except ValidationError as error:
        raise InputError(explain(error, ServedPolicyConfig, "serve-policy")) from error
    serve_policy_until_stopped(config, typer.echo)


def _adapters(texts: list[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise InputError(
                f"--adapter {text!r} names no folder; write it as PREFERENCE=FOLDER, such as P1A=adapters/a"
            )
        if name in folders:
            raise InputError(f"--adapter {name} is there twice; give each preference one adapter")
        folders[name] = folder
    return folders
