"""A user's own code, named in a job by its dotted path: `package.module:name`."""

from __future__ import annotations

import importlib
from typing import Any

from rayalign.errors import InputError


def import_dotted(path: str, form: str = "package.module:name") -> Any:
    """What a dotted path names.

    Args:
        form: how the error tells the user to write the path.

    Raises:
        InputError: the module or the name does not exist, or the module fails while it is imported.
    """
    module_name, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{path} cannot be imported ({_first_line(error)}); write it as {form}") from error
    except (Exception, SystemExit) as error:  # a module of the user's may raise anything
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise InputError(f"{path} cannot be imported ({reason}); correct the path or its module") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason"
