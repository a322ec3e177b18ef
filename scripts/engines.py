"""Starts real engines on free loopback ports, for a developer to play with, and stops them on Ctrl-C or SIGTERM.

    python scripts/engines.py                      all of them
    python scripts/engines.py nats postgresql      these

Once all are ready their URLs stand in `var/engines.json`, by name, as `millstream up --split --store URL --transport URL`
takes them; the file goes when they stop. Data lives in a temporary folder that goes as well.
Exit code 0 when stopped by a signal, 1 when an engine could not be had or ended by itself, 2 for a name that is none.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer, EngineUnavailable

__all__ = ["ENGINES", "main"]

ENGINES: dict[str, Callable[[Path], EngineServer]] = {
    "postgresql": PostgresqlServer,
    "nats": NatsServer,
    "kafka": KafkaServer,
    "rabbitmq": RabbitmqServer,
    "redis": RedisServer,
}
WATCH_SECONDS = 0.5


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"of {', '.join(ENGINES)}; none named: all")
    parser.add_argument("--output", type=Path, default=Path("var/engines.json"))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.engines if name not in ENGINES]
    if unknown:
        print(f"no engine is called {', '.join(unknown)}; there are {', '.join(ENGINES)}", file=sys.stderr)
        return 2
    names = [name for name in ENGINES if name in (options.engines or ENGINES)]
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with tempfile.TemporaryDirectory(prefix="millstream-engines-", ignore_cleanup_errors=True) as folder:
        servers = {name: ENGINES[name](Path(folder) / name) for name in names}
        try:
            return _serve(servers, options.output, stopped)
        finally:
            options.output.unlink(missing_ok=True)
            for server in reversed(servers.values()):
                server.stop()


def _serve(servers: dict[str, EngineServer], output: Path, stopped: threading.Event) -> int:
    began = time.monotonic()

    def start(name: str) -> str:
        if not stopped.is_set():
            servers[name].start()
            print(f"{name:<12}{time.monotonic() - began:5.1f} s   {servers[name].url}", flush=True)
        return name

    with ThreadPoolExecutor(len(servers)) as pool:
        started = [pool.submit(start, name) for name in servers]
    for future in started:
        error = future.exception()
        if isinstance(error, EngineUnavailable):
            print(error, file=sys.stderr)
            return 1
        if error is not None:
            raise error
    if stopped.is_set():
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    written = output.with_suffix(".new")
    written.write_text(json.dumps({name: server.url for name, server in servers.items()}, indent=2) + "\n")
    written.replace(output)  # whoever waits for the file finds it whole
    print(f"ready; the URLs are in {output}; stop with Ctrl-C", flush=True)
    while not stopped.wait(WATCH_SECONDS):
        for name, server in servers.items():
            if server.pid is None:
                print(f"{name} ended by itself:\n{server.log_tail()}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
