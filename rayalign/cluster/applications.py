"""Ray Serve applications of the session: started on one port, called through handles, and ended."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ServeStatus

from rayalign.errors import ActorError, DeadlineError, InputError, RayalignError
from rayalign.waiting import finished_within, reported

logger = logging.getLogger(__name__)
DRAIN = 30.0
"""seconds that a stopping replica has to finish its requests"""
CHECK = 2.0
"""seconds between two health checks of a replica; a dead one takes no requests for longer than that"""
START = 300.0
"""seconds until Serve itself must have started"""
DEPLOY = 3600.0
"""seconds until all deployments of an application must run: a large model loads for many minutes"""
STATUS = 60.0
"""seconds in which Serve's controller must answer"""
END = 2 * DRAIN + 60.0
"""seconds until Serve must have ended"""
_QUIET: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
"""a line for each request costs a tenth of the requests"""


def start_application(
    application: Application,
    *,
    name: str,
    address: tuple[str, int],
    timeout: float,
    replace: bool = False,
    remedy: str = "",
    report: Callable[[str], object] = logger.warning,
    location: Literal["HeadOnly", "EveryNode"] = "EveryNode",
) -> str:
    """Start an application in the Ray session of this process; returns its URL once it answers.

    Args:
        name: of the application, and of what it serves in the message of an error.
        address: host and port.
        timeout: of one request [seconds].
        replace: whether to end an application of that name first, which an interrupted run left.
        remedy: what to do where Serve runs already, besides ending it.
        report: takes a line while the deployments do not start at once.
        location: the nodes on which Serve listens.

    Raises:
        InputError: the port is taken, Serve runs already, or a deployment refuses its input.
        ActorError: Serve, or a deployment for another reason, does not start.
        DeadlineError: a deployment has not started in time.
    """
    host, port = address
    refuse_a_taken_port(host, port)
    status = _status()
    if replace and set(status.applications) == {name}:
        stop_applications()
    elif status.proxies or status.applications:
        raise InputError(
            f"Ray Serve runs on this cluster already (applications: {', '.join(status.applications) or 'none'}); "
            f"{remedy}`serve shutdown` ends them all"
        )
    http = {"host": host, "port": port, "request_timeout_s": timeout + DRAIN}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # the caller logs what happens
    with ExitStack() as undo:
        undo.callback(stop_applications)
        begin = partial(serve.start, http_options=http, proxy_location=location, logging_config=_QUIET)
        try:
            with reported("Ray Serve to start", report):
                finished_within(begin, START, f"it did not answer within {START:.0f} s")
        except (RayError, TimeoutError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise ActorError(f"Ray Serve did not start ({reason}); where the machine is busy, try again") from error
        deploy = partial(serve.run, application, name=name, route_prefix="/", logging_config=_QUIET)
        try:
            with reported(partial(_pending, name), report):
                finished_within(deploy, DEPLOY, f"the application {name} does not run after {DEPLOY:.0f} s")
        except RuntimeError as error:  # Serve's, which names the deployment alone
            raise _failure(name, error) from error
        undo.pop_all()
    return f"http://{host}:{port}"


def stop_applications() -> None:
    """End Serve and all its applications; requests in progress are finished first."""
    try:
        finished_within(serve.shutdown, END, f"Ray Serve did not end within {END:.0f} s")
    except DeadlineError as error:
        logger.warning("%s; `serve shutdown` ends what it has left", error)


async def called(method: DeploymentHandle, *arguments: Any, timeout: float) -> Any:
    """The reply of a deployment; its own errors of ours as they are, any other failure as ActorError.

    Raises:
        DeadlineError: no reply within `timeout` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            return await method.remote(*arguments)
    except TimeoutError as error:
        raise _late(timeout, error) from error
    except RayError as error:
        raise _of_ours(error) from error


async def streamed(method: DeploymentHandle, *arguments: Any, timeout: float) -> AsyncGenerator[Any, None]:
    """What a generator of a deployment yields, with the errors of `called`; closing it cancels the generator there.

    Args:
        timeout: seconds between two items.
    """
    items = method.options(stream=True).remote(*arguments)
    rest = aiter(items)
    finished = False
    try:
        while True:
            async with asyncio.timeout(timeout):
                item = await anext(rest)
            yield item
    except StopAsyncIteration:
        finished = True
    except TimeoutError as error:
        raise _late(timeout, error) from error
    except RayError as error:
        finished = True
        raise _of_ours(error) from error
    finally:
        if not finished:
            items.cancel()


def refuse_a_taken_port(host: str, port: int) -> None:
    """InputError where Serve could not listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port} cannot be served on ({error.strerror}); give another --port") from None


def _late(timeout: float, error: TimeoutError) -> RayalignError:
    if isinstance(error, RayalignError):  # of the deployment itself
        return error
    return DeadlineError(f"the hosted model gave nothing for {timeout:g} s; send fewer requests at once")


def _of_ours(error: RayError) -> RayalignError:
    if not isinstance(error, RayTaskError):
        return ActorError(f"the hosted model's process failed: {type(error).__name__}; send it again")
    if isinstance(error.cause, RayalignError):
        return error.cause
    return ActorError(f"the hosted model failed: {type(error.cause).__name__}: {error.cause}")


def _status() -> ServeStatus:
    """What runs on Serve; its own call waits for the controller without end."""
    return finished_within(serve.status, STATUS, f"Ray Serve's controller has not answered for {STATUS:.0f} s")


def _pending(name: str) -> str:
    """The deployments that do not run yet, and why."""
    try:
        application_status = _status().applications.get(name)
    except DeadlineError as error:
        return str(error)
    deployments = application_status.deployments if application_status else {}
    pending: list[str] = []
    for deployment, status in deployments.items():
        if status.status != "HEALTHY":
            reason = " ".join(status.message.split()) or status.status.value.lower()
            pending.append(f"{deployment} ({reason})")
    return "; ".join(pending) or "Ray Serve to start"


def _failure(name: str, error: RuntimeError) -> RayalignError:
    """Why an application did not start: the last line of its failed deployments' tracebacks."""
    application_status = _status().applications.get(name)
    deployments = application_status.deployments.values() if application_status else []
    failures = [deployment.message.strip() for deployment in deployments if deployment.status == "DEPLOY_FAILED"]
    report = "\n".join(failures) or str(error)
    _, is_input_error, reason = report.rpartition(f"{InputError.__module__}.{InputError.__name__}: ")
    if is_input_error:
        return InputError(reason)
    return ActorError(f"the application {name} did not start: {report.splitlines()[-1]}")
