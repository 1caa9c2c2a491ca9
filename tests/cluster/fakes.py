"""Actors in this process, which answer, fail or fall silent as a test says; they stand where Ray's handles do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from rayalign.actors.hosted import Pulse
from rayalign.actors.place import Place

PULSE = Pulse(memory=3 << 30, memory_kills=0)


class Ref:
    """An object reference."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self._future

    def settle(self, answer: Any) -> Ref:
        """Answer, or fail where the answer is an exception."""
        if isinstance(answer, BaseException):
            self._future.set_exception(answer)
        else:
            self._future.set_result(answer)
        return self


class Method:
    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *arguments: Any) -> Ref:
        answer = self._answer(*arguments)
        return answer if isinstance(answer, Ref) else Ref().settle(answer)


class Actor:
    """Answers each method from a table; a method that is not in it is never answered, nor is any once it is silent."""

    def __init__(self, pid: int = 1, **answers: Any) -> None:
        self.place = Place(pid, "10.0.0.1", 4000, node="f00d" * 8)
        self.silent = False
        self.answers = {"pulse": PULSE, "where": self.place, **answers}

    def __getattr__(self, name: str) -> Method:
        def answer(*arguments: Any) -> Any:
            value = self.answers.get(name, Ref())
            if self.silent:
                return Ref()
            return value(*arguments) if callable(value) else value

        return Method(answer)
