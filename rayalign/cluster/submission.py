"""Jobs of a Ray cluster over its HTTP interface: submit, follow, list, stop. Nothing of Ray starts on this machine.

Every request has a deadline. A log is followed over one connection, and where that is silent, a request for the job's
status shows whether the cluster is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient, JobType

from rayalign.errors import DeadlineError, InputError, RayalignError

DEADLINE = 60.0
"""seconds for any request, the upload apart, whose every part has as long"""
SILENCE = 20.0
"""seconds without a line after which the job's status is requested"""
BROKEN = "WebSocket"
"""a word of Ray's errors about the connection over which a log is followed"""
NO_SUCH_COMMAND = 127
"""the shell's exit code where it finds no program of that name"""


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """One job of a cluster, as it stands now."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED"""
    command: str
    message: str
    started: float | None
    """[seconds since 1970]"""
    ended: float | None
    """[seconds since 1970]; None: it still runs"""
    exit_code: int | None
    """of its process; None where the cluster knows none"""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class _Requests(JobSubmissionClient):
    """Ray's client, which waits for a reply without end, with a deadline."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=DEADLINE, **options)

    def ray_version(self) -> str:
        """Ray's version on the cluster."""
        return str(self._do_request("GET", "/api/version").json()["ray_version"])


class JobClient:
    """The jobs of the cluster whose dashboard answers at an address."""

    def __init__(self, address: str) -> None:
        """
        Raises:
            InputError: no cluster answers there, it refuses the token, or it has another version of Ray.
        """
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{address} is no address of a cluster's dashboard; give a URL such as http://head:8265")
        self.address = address
        with self._explained():
            self._requests = _Requests(address)
            version = self._requests.ray_version()
        if version != ray.__version__:
            raise InputError(
                f"the cluster at {address} runs Ray {version} and this machine has {ray.__version__}; "
                "set both up from the same constraints.txt (clusters/README.md)"
            )

    def submit(self, command: str, folder: Path, environment: Mapping[str, str]) -> str:
        """Start a command in a copy of the folder, on the head node; the job's id.

        What .gitignore and .rayignore name is left out of the copy, which the cluster deletes when the job has ended.
        """
        runtime_env: dict[str, Any] = {"working_dir": str(folder), "env_vars": dict(environment)}
        with self._explained():
            return str(self._requests.submit_job(entrypoint=command, runtime_env=runtime_env))

    def job(self, job_id: str) -> SubmittedJob:
        """One job now."""
        with self._explained(job_id):
            return _state(self._requests.get_job_info(job_id))

    def jobs(self) -> list[SubmittedJob]:
        """All submitted jobs, the newest last."""
        with self._explained():
            details = self._requests.list_jobs()
        submitted = [_state(each) for each in details if each.type == JobType.SUBMISSION]
        return sorted(submitted, key=lambda job: job.started or 0.0)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end, as Ctrl-C would; False where it had ended before."""
        with self._explained(job_id):
            return bool(self._requests.stop_job(job_id))

    def log(self, job_id: str) -> str:
        """What a job has written so far."""
        with self._explained(job_id):
            return str(self._requests.get_job_logs(job_id))

    def follow(self, job_id: str) -> Iterator[str]:
        """What a job writes, as it writes it, until it has ended."""
        length = 0
        with self._explained(job_id), asyncio.Runner() as runner:
            stream = self._lines(job_id)
            while (text := runner.run(_next(stream))) is not None:
                length += len(text)
                yield text
        # The connection ends with the job, sometimes before its last lines.
        rest = self.log(job_id)[length:]
        if rest:
            yield rest

    async def _lines(self, job_id: str) -> AsyncIterator[str]:
        """The lines of a job, with a look at its status where it is silent."""
        stream = self._requests.tail_job_logs(job_id)
        pending = asyncio.ensure_future(_next(stream))
        try:
            while True:
                await asyncio.wait({pending}, timeout=SILENCE)
                if pending.done():
                    text = pending.result()
                    if text is None:
                        return
                    yield text
                    pending = asyncio.ensure_future(_next(stream))
                elif (await asyncio.to_thread(self.job, job_id)).over:
                    return
        finally:
            pending.cancel()

    @contextmanager
    def _explained(self, job_id: str = "") -> Iterator[None]:
        """Turns what requests, aiohttp and Ray raise into one sentence with the remedy."""
        try:
            yield
        except AuthenticationError as error:
            raise InputError(
                f"the cluster at {self.address} refuses this machine's token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head node"
            ) from error
        except requests.Timeout as error:
            raise DeadlineError(
                f"the cluster at {self.address} did not answer within {DEADLINE:.0f} s; is its head node overloaded or "
                "behind a firewall? A job that was submitted goes on"
            ) from error
        except (ConnectionError, requests.ConnectionError, aiohttp.ClientError) as error:
            raise InputError(
                f"no Ray dashboard answers at {self.address}; start a cluster (clusters/README.md), or open a way "
                "to it (`ray dashboard CLUSTER.yaml`, `kubectl port-forward`)"
            ) from error
        except (RuntimeError, ValueError) as error:
            if isinstance(error, RayalignError):
                raise
            raise _refusal(error, job_id, self.address) from error


async def _next(stream: AsyncIterator[str]) -> str | None:
    """The next text of a stream; None at its end."""
    return await anext(stream, None)


def _state(details: Any) -> SubmittedJob:
    started, ended = details.start_time, details.end_time
    return SubmittedJob(
        id=details.submission_id,
        status=str(details.status.value),
        command=details.entrypoint,
        message=details.message or "",
        started=started / 1000 if started else None,
        ended=ended / 1000 if ended else None,
        exit_code=details.driver_exit_code,
    )


def _refusal(error: Exception, job_id: str, address: str) -> RayalignError:
    text = " ".join(str(error).split())
    if job_id and "404" in text:
        return InputError(f"the cluster at {address} knows no job {job_id}; `rayalign jobs list` names those it has")
    if BROKEN in text:
        return RayalignError(
            f"the connection to the cluster at {address} broke while {job_id} was followed; where the cluster is still "
            f"up, the job goes on: follow it again with `rayalign jobs logs {job_id} --follow --address {address}`"
        )
    if "exceeds the maximum size" in text:
        size = text.partition(" To exclude")[0].lower()
        return InputError(
            f"the working folder is too large to be sent: {size}; name models, data and runs in .rayignore, "
            "and keep them where all nodes see them"
        )
    return RayalignError(f"the cluster at {address} refused the request: {text}")
