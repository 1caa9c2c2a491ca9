"""Data that are an earlier stage's output: `data: {path: stage:NAME}`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rayalign.config import AUTO, DataConfig, Reference
from rayalign.data.files import is_hub_name

FORMAT = "records"
"""in which stages write their rows"""


def stage_paths(data: DataConfig, key: str = "data") -> Iterator[tuple[str, str]]:
    """Dotted key and text of each path of a data section that names an earlier stage."""
    paths = {f"{key}.path": data.path}
    if data.blend is not None:
        paths = {f"{key}.blend.{number}.path": source.path for number, source in enumerate(data.blend)}
    for place, path in paths.items():
        if path is not None and Reference.parse(path) is not None:
            yield place, path


def with_files(data: DataConfig, output: Callable[[str], Path]) -> DataConfig:
    """The section with the file of each stage in the place of its name.

    Args:
        output: from `stage:NAME` to the file that this stage wrote.
    """
    if data.blend is None:
        return data.model_copy(update=_file(data.path, output))
    sources = [source.model_copy(update=_file(source.path, output)) for source in data.blend]
    return data.model_copy(update={"blend": tuple(sources)})


def _file(path: str | None, output: Callable[[str], Path]) -> dict[str, str]:
    if path is None or Reference.parse(path) is None:
        return {}
    return {"format": FORMAT, "path": str(output(path))}


def recognised(data: DataConfig | None) -> str | None:
    """What rows whose format the job does not name are read as, for people; None where there is nothing to say."""
    if data is None or data.blend is not None or data.path is None or data.format != AUTO:
        return None
    if Reference.parse(data.path) is not None:
        return None
    if is_hub_name(data.path):
        return f"{data.path}, whose format is recognised once it is read"
    from rayalign.data.readers import format_of

    return f"{data.path}, read as {format_of(data)}"
