"""An S3-compatible server of this process, which moto runs, with one bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that holds the bucket `bucket`."""

    address: str

    @property
    def query(self) -> str:
        """What a URL of the bucket ends with, so that it leads here."""
        return f"?endpoint_override={self.address}&scheme=http&region={REGION}"

    def client(self, service: str) -> Any:
        """A client of the server's `s3` or `iam`."""
        import boto3

        return boto3.client(service, endpoint_url=f"http://{self.address}", region_name=REGION)


@contextmanager
def s3_server() -> Iterator[Server]:
    """The server, and credentials for it in the environment."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    server = Server(f"{host}:{port}")
    with credentials("a-key", "a-secret"):
        server.client("s3").create_bucket(Bucket="bucket")
        yield server
    running.stop()


@contextmanager
def credentials(key: str, secret: str) -> Iterator[None]:
    """Within it, this process and those that it starts have these credentials."""
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    try:
        yield
    finally:
        _restore(before)


def _restore(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
