"""Forks: the worker processes of a local session share their imports, as forks of one process that has them already.

    ForkServer        of the driver: starts the process below, and names the command that Ray starts workers with
    fork_client.py    that command: passes a worker's arguments, environment and output on, and ends
    fork_server.py    the process: imports the libraries once, and forks itself for each worker

An import of torch, transformers and DeepSpeed costs a process several seconds of a core and 0.3 GB, a fork next to
nothing. A worker that needs more libraries names them in its environment (IMPORTS); the server keeps a fork with these
for all that name the same. Without a GPU only: no process may fork once it has started CUDA.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

IMPORTS = "RAYALIGN_IMPORTS"
"""environment variable: modules that a worker needs beside LIBRARIES, with commas between them"""
LIBRARIES = (
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "rayalign.models.learner",
)
"""they take seconds to import, and every model needs them"""


class ForkServer:
    """The fork server of a session, from its start to `stop`; it also ends with this process."""

    def __init__(self, environment: dict[str, str], libraries: Sequence[str] = LIBRARIES) -> None:
        """Start the server; its imports go on beside the caller.

        Args:
            environment: what libraries read when they are loaded, beside the variables of this process.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="rayalign-forks-"))
        self._address = str(self._folder / "server")
        settings = json.dumps({"path": sys.path, "libraries": list(libraries)})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self._address)
            listener.listen(128)
            script = Path(__file__).with_name("fork_server.py")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script), str(listener.fileno()), settings],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,  # its end tells the server that this process has ended
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                process_group=0,  # Ctrl-C is for the driver
            )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def command(self) -> str:
        """Ray's `py_executable`: what starts a worker in the place of Python."""
        client = Path(__file__).with_name("fork_client.py")
        return shlex.join([sys.executable, "-I", "-S", str(client), self._address])

    def stop(self) -> None:
        """End the server; its forks live on."""
        self._process.kill()
        self._process.wait(timeout=10.0)
        shutil.rmtree(self._folder, ignore_errors=True)


def possible() -> bool:
    """True on a machine without a GPU."""
    return not any(Path("/dev").glob("nvidia[0-9]*"))
