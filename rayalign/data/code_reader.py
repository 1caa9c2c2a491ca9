"""A user's own code as a reader: `package.module:function`."""

from __future__ import annotations

from collections.abc import Callable

from rayalign.data.files import Row
from rayalign.errors import InputError
from rayalign.types import Example
from rayalign.user_code import import_dotted

_FORM = "package.module:function"


def code_reader(path: str) -> Callable[[Row, str], Example | str]:
    """The function that a dotted path names, checked at each row.

    It is called as `function(row, where)`, and returns an `Example`, or the reason why the row is left out.

    Raises:
        InputError: it cannot be imported or called; from the reader itself where the function fails or returns
            anything else.
    """
    function = import_dotted(path, _FORM)
    if not callable(function):
        raise InputError(f"{path} is no function; write it as {_FORM}")

    def read(row: Row, where: str) -> Example | str:
        try:
            example = function(row, where)
        except InputError:
            raise
        except Exception as error:  # user code may raise anything
            raise InputError(
                f"{where}: {path} raised {type(error).__name__}: {error}; correct it or the row"
            ) from error
        if not isinstance(example, Example | str):
            kind = type(example).__name__
            raise InputError(f"{where}: {path} returned {kind}; return an Example, or why the row is left out")
        return example

    return read
