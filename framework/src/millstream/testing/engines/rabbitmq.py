"""One RabbitMQ node of Debian's package, with everything it writes in its folder.

It shares nothing with another node of the machine: its own name, cookie, home, ports and plugins, and no epmd (Erlang's
daemon that maps node names to ports would be left running). The package is installed when it is missing, without
starting the service that it brings.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from .server import EngineServer, free_port, install_debian_packages

__all__ = ["RabbitmqServer"]

# Not /usr/sbin/rabbitmq-server: that one changes to the user `rabbitmq` and refuses every other but root.
_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_POLICY = Path("/usr/sbin/policy-rc.d")

SETTINGS: Mapping[str, str] = {
    "loopback_users": "none",
    # What a small machine has: the defaults are shares of its memory and of its disk, and stop all publishers.
    "vm_memory_high_watermark.absolute": "512MB",
    "disk_free_limit.absolute": "50MB",
    "log.console.level": "warning",
}


class RabbitmqServer(EngineServer):
    """settings: lines of `rabbitmq.conf` beside and above `SETTINGS`."""

    name = "rabbitmq"

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder.resolve())
        self._settings = {**SETTINGS, **(settings or {})}
        self.port = free_port()
        self._distribution_port = free_port()

    @property
    def url(self) -> str:
        return f"rabbitmq://guest:guest@127.0.0.1:{self.port}"

    @property
    def amqp_url(self) -> str:
        """What any other client of RabbitMQ takes."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def prepare(self) -> None:
        with _no_service_starts():
            install_debian_packages("rabbitmq-server", needs=_PROGRAM)
        lines = {"listeners.tcp.1": f"127.0.0.1:{self.port}", **self._settings}
        (self.folder / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (self.folder / "enabled_plugins").write_text("[].\n")

    def command(self) -> list[str]:
        return [str(_PROGRAM)]

    def environment(self) -> dict[str, str]:
        port, node = self._distribution_port, f"millstream-{self.port}@localhost"
        return {
            # "Allow input" makes the script become the broker, so that our process id is the broker's and SIGTERM
            # reaches it; `-noinput` then takes the input away again.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            # Erlang gets the node's name and port from its first moment on. RabbitMQ, finding itself named, then
            # does not start an epmd and ask it: both cost seconds, and the daemon would outlive the broker.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-sname {node} -erl_epmd_port {port} -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
            # For every Erlang that the broker runs: each minute it runs one just to have an epmd.
            "ERL_FLAGS": "-start_epmd false",
            "RABBITMQ_NODENAME": node,
            "RABBITMQ_DIST_PORT": str(port),
            "ERL_EPMD_PORT": "1",  # where nobody listens: asking a port that keeps silent takes ten seconds
            "HOME": str(self.folder),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
        }

    def ready(self) -> bool:
        # The listener opens last, when every queue is recovered; the greeting tells the broker from a stranger.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        return False


@contextmanager
def _no_service_starts() -> Generator[None]:
    """Debian starts what it installs unless `policy-rc.d` says no. Ours is there while we install, if nobody has one."""
    mine = False
    if os.geteuid() == 0 and not _PROGRAM.exists():
        with suppress(FileExistsError), _POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
            _POLICY.chmod(0o755)
            mine = True
    try:
        yield
    finally:
        if mine:
            _POLICY.unlink(missing_ok=True)
