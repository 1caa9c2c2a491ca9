"""The file of a service, as `rayalign serve` reads it."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from rayalign.config import ServiceConfig, explain
from rayalign.errors import InputError

EMBEDDED = Path(__file__).parent / "embedded.yaml"
"""the pool of the embedded world: no key, no network"""


def load_service(path: Path | None) -> ServiceConfig:
    """The file's settings; those of the embedded pool without one.

    Raises:
        InputError: no such file, not YAML, or a key or value that is wrong.
    """
    source = path or EMBEDDED
    if not source.is_file():
        raise InputError(
            f"{source}: there is no such file (a service's URL starts with http://); without one the embedded pool "
            "is taken"
        )
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
        return ServiceConfig.model_validate(raw)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not YAML: {error}") from None
    except ValidationError as error:
        raise InputError(explain(error, ServiceConfig, str(source))) from None
