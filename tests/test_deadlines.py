"""Every wait on another thread, process or machine has a deadline; read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rayalign"
MODULE_CALLS = {
    "ray.get", "ray.wait", "ray.init", "ray.shutdown",
    "asyncio.wait", "asyncio.as_completed",
    "subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output",
    "serve.run", "serve.start", "serve.shutdown", "serve.delete", "serve.status",
    "dist.init_process_group", "deepspeed.init_distributed",
    "urlopen", "wait", "as_completed",
}  # fmt: skip
"""calls that wait without end unless they have the argument `timeout`; the second argument of `wait` is its timeout"""
METHODS = {"result": 0, "get": 0, "join": 0, "wait": 0, "fit": 0, "acquire": 0, "communicate": 0, "wait_for": 1}
"""waiting methods, and how many arguments each has beside its deadline"""
LIMITED = {"interrupted_after", "asyncio.timeout", "finished_within"}
"""calls that limit all that stands within them"""

OVER = "it has ended already"
MERELY_LOCAL = "the thread that it waits for only reads, computes or writes on this machine"
CANCELLED = "what it waits for has just been cancelled"
CALLER = "waits for work until its task is cancelled; who wants the work's result has a deadline"
EXCEPTIONS = {
    ("actors/reward.py", "self._thread.submit(work).result()"): "the actor's own; each call of it has a deadline",
    ("actors/wire.py", "call.result()"): OVER,
    ("annotator/store/database.py", "late.result()"): OVER,
    ("cluster/heart.py", "self._asked.result()"): OVER,
    ("cluster/group.py", "answer.result()"): OVER,
    ("cluster/pool.py", "poll.result()"): OVER,
    ("cluster/submission.py", "pending.result()"): OVER,
    ("coordinator/groups.py", "arrival.result()"): OVER,
    ("coordinator/online.py", "taking.result()"): OVER,
    ("rollout/loop.py", "future.result()"): OVER,
    ("rollout/loop.py", "self._engine.result()"): "the engine's own thread runs after the engine was made",
    ("models/stored_sums.py", "ahead.popleft().result()"): MERELY_LOCAL,
    ("pipeline/runner.py", "proof.result()"): MERELY_LOCAL,
    ("pipeline/working_copy.py", "self._thread.join()"): "an upload, whose requests have the timeouts of their library",
    ("pipeline/context.py", "early.result()"): "the start of the engines, whose calls have deadlines",
    ("cluster/session.py", "ray.init"): "within `interrupted_after` of `Session.__enter__`",
    ("coordinator/offline.py", "self._trainer.fit()"): "in a thread that `_fit` watches, rank by rank",
    ("coordinator/offline_actors.py", "group.one"): "`_watch` looks at the ranks while it waits",
    ("coordinator/groups.py", "asyncio.wait([running])"): CANCELLED,
    ("coordinator/online.py", "asyncio.wait"): "the wait for an iteration's groups and each call have deadlines",
    ("coordinator/groups.py", "results.get()"): "`_next` waits for it with a timeout",
    ("coordinator/rollouts.py", "self._changed.wait_for"): CALLER,
    ("coordinator/scoring.py", "self._queue.get()"): CALLER,
    ("rollout/vllm_chat.py", "self._inbox.get()"): "waits for requests; each request has its own deadline",
    ("rollout/vllm_chat.py", "request.outcomes.get()"): "within `asyncio.wait_for`",
    ("annotator/web/connections.py", "self._idle.wait()"): "`drain` gives the request that waits a timeout",
    ("weights/paths/line.py", "answer.wait()"): "an endpoint's answer has the line's timeout",
    ("pipeline/machines.py", "self._growth.wait_for(name)"): "Growth.wait_for ends after cluster.scale_timeout",
}
"""(file, how the call begins) -> why it may wait without a deadline of its own"""


def unlimited_waits(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that could wait without end."""
    if isinstance(tree, ast.Call):
        if ast.unparse(tree.func) in LIMITED:
            return
        if not _has_deadline(tree):
            yield tree
    inside = list(ast.iter_child_nodes(tree))
    if isinstance(tree, ast.With | ast.AsyncWith) and _limits(tree):
        inside = []
    for node in inside:
        yield from unlimited_waits(node)


def _limits(block: ast.With | ast.AsyncWith) -> bool:
    contexts = [item.context_expr for item in block.items]
    return any(isinstance(context, ast.Call) and ast.unparse(context.func) in LIMITED for context in contexts)


def _has_deadline(call: ast.Call) -> bool:
    """Whether a call is no wait, or one that ends by itself."""
    timeouts = [word.value for word in call.keywords if word.arg and word.arg.startswith("timeout")]
    if timeouts:
        return ast.unparse(timeouts[0]) not in ("None", "FOREVER")
    name = ast.unparse(call.func)
    if name in MODULE_CALLS:
        return name == "wait" and len(call.args) > 1
    if name == "asyncio.wait_for" or not isinstance(call.func, ast.Attribute):
        return True
    if call.func.attr not in METHODS:
        return True
    if any(word.arg == "blocking" for word in call.keywords):
        return True
    is_context_variable = call.func.attr == "get" and ast.unparse(call.func.value).isupper()
    return is_context_variable or len(call.args) > METHODS[call.func.attr]


def found() -> list[tuple[str, str]]:
    """File and text of each wait without a deadline."""
    waits = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in unlimited_waits(ast.parse(path.read_text())):
            waits.append((path.relative_to(PACKAGE).as_posix(), ast.unparse(call)))
    return waits


def _is_excepted(file: str, text: str) -> bool:
    return any(file == its_file and text.startswith(begin) for its_file, begin in EXCEPTIONS)


def test_every_wait_has_a_deadline_or_a_reason_to_have_none() -> None:
    missing = [wait for wait in found() if not _is_excepted(*wait)]
    assert not missing, missing


def test_each_exception_is_needed() -> None:
    waits = found()
    for file, begin in EXCEPTIONS:
        assert any(file == its_file and text.startswith(begin) for its_file, text in waits), (file, begin)


@pytest.mark.parametrize(
    "text",
    [
        "ray.get(ref)",
        "ray.get(ref, timeout=None)",
        "ray.wait(refs, num_returns=1)",
        "group.one(actor, call, timeout=FOREVER)",
        "future.result()",
        "queue.get()",
        "thread.join()",
        "event.wait()",
        "condition.wait_for(ready)",
        "lock.acquire()",
        "trainer.fit()",
        "serve.run(application)",
        "wait([future])",
        "subprocess.run(command)",
        "process.communicate()",
        "dist.init_process_group('gloo')",
        "with reported('it'):\n    ray.get(ref)",
        "finished = waits[0].result()",
    ],
)
def test_a_wait_without_a_deadline_is_found(text: str) -> None:
    assert len(list(unlimited_waits(ast.parse(text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "ray.get(ref, timeout=3)",
        "group.wait(timeout_seconds=3)",
        "future.result(3)",
        "queue.get(timeout=3)",
        "mapping.get(key)",
        "CLIENT.get()",
        "lock.acquire(blocking=False)",
        "', '.join(names)",
        "condition.wait_for(ready, 3)",
        "asyncio.wait_for(call(), 3)",
        "wait([future], 3)",
        "with interrupted_after(3, 'late'):\n    ray.init()",
        "async def f():\n    async with asyncio.timeout(3), lock:\n        await event.wait()",
        "finished_within(lambda: serve.run(application), 3, 'late')",
    ],
)
def test_a_wait_with_a_deadline_and_no_wait_at_all_are_left_alone(text: str) -> None:
    assert not list(unlimited_waits(ast.parse(text)))
