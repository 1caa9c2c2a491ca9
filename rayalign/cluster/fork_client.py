"""The command that starts a worker of a local session: has the fork server fork, or becomes Python where there is none.

`fork_client.py ADDRESS SCRIPT ARGUMENTS...`. It runs without site packages, so that it costs a few milliseconds.
"""

import json
import os
import socket
import sys

DEADLINE = 300.0
"""of the fork, which waits for the first imports of the session [s]"""


def main() -> None:
    """Ask for a fork that runs the script, and end once it is there."""
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
