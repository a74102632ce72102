"""A web server that kills who asks for a photo, to see what a process leaves that dies in the middle of its work."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from helpers.web import FileHandler, FileServer


class Deadly(FileServer):
    """Serves /deadly.png, but kills the first `deaths` processes that ask for it."""

    def __init__(self, content: bytes, deaths: int) -> None:
        super().__init__({"/deadly.png": content})
        self.RequestHandlerClass = DeadlyHandler
        self.deaths = deaths
        self.killed: list[int] = []


class DeadlyHandler(FileHandler):
    server: Deadly  # pyright: ignore[reportIncompatibleVariableOverride]

    def respond(self, head: bool) -> None:
        if not head and len(self.server.killed) < self.server.deaths:
            process = process_of(self.client_address[1], self.server.server_address[1])
            self.server.killed.append(process)
            os.kill(process, signal.SIGKILL)
        else:
            super().respond(head)


def process_of(port: int, server: int) -> int:
    """Return the process that is connected from a port to that of the server.

    Both ports count: at the same time, other programs may connect from this port to other servers.
    """
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {f"socket:[{row[9]}]": [int(end.split(":")[1], 16) for end in row[1:3]] for row in rows}
    sockets = {name for name, both in ends.items() if both == [port, server]}
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = os.readlink(file) in sockets
        except OSError:
            continue
        if found and int(file.parts[2]) != os.getpid():
            return int(file.parts[2])
    raise AssertionError(port)
