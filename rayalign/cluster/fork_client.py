"""The command that starts a worker of a local session: requests a fork, or runs Python itself if no server answers.

`fork_client.py ADDRESS SCRIPT ARGUMENTS...`. It runs without site packages, so that it costs a few milliseconds.
"""

import json
import os
import socket
import sys

DEADLINE = 120.0
"""of the fork, which waits for the first imports of the session, less than Ray's own for a worker [s]"""


def main() -> None:
    """Request a fork that runs the script, and exit when it has started."""
    address, *command = sys.argv[1:]
    worker = {"command": command, "environment": dict(os.environ), "folder": os.getcwd(), "group": os.getpgrp()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(DEADLINE)
        try:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(worker).encode()], [0, 1, 2])
            forked = connection.recv(1)
        except OSError:
            forked = b""
    if not forked:
        os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
