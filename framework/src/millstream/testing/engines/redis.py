"""A Redis server for tests: the distribution's `redis-server` (7.0), with an append-only file that is synced at every write.

The settings are those that the promise needs (`appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`);
`settings` overrides them, to show what the transport says about weaker ones.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from .server import EngineServer, free_port, install_debian_packages

__all__ = ["RedisServer"]

PROGRAM = Path("/usr/bin/redis-server")
ASK_SECONDS = 1.0
"""How long one question may take before it counts as not answered."""

_DURABLE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "save": "",  # no snapshots beside the append-only file
    "auto-aof-rewrite-percentage": "0",  # a rewrite forks in the middle of a test
    "aof-load-truncated": "yes",
}


class RedisServer(EngineServer):
    """One node.

    settings: further settings as in `redis.conf`, or other values for those above.
    """

    name = "redis-server"

    def __init__(self, folder: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self._settings = {**_DURABLE, **(settings or {})}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(PROGRAM), str(self.folder / "redis.conf")]

    def prepare(self) -> None:
        install_debian_packages("redis-server", needs=PROGRAM)
        own = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "daemonize": "no"}
        lines = [f"{name} {_quoted(value)}" for name, value in {**own, **self._settings}.items()]
        (self.folder / "redis.conf").write_text("\n".join(lines) + "\n")

    def ready(self) -> bool:
        # A server that asks for a password answers too; while it loads its file it says LOADING.
        return self.ask("PING").startswith(("+PONG", "-NOAUTH"))

    def ask(self, command: str) -> str:
        """The first line that the server answers to a command, without any client library; empty when it does not."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), ASK_SECONDS) as connection:
                connection.sendall(command.encode() + b"\r\n")
                answer, until = b"", time.monotonic() + ASK_SECONDS
                while b"\r\n" not in answer and time.monotonic() < until:
                    read = connection.recv(4096)
                    if not read:
                        break
                    answer += read
        except OSError:
            return ""
        return answer.partition(b"\r\n")[0].decode(errors="replace")


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
