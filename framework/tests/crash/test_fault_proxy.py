"""Each fault of the proxy is what its name says, to a client that only knows sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from millstream.testing.faults import KINDS, Episode, FaultProxy, episodes

PATIENCE = 0.3
"""Until silence counts as silence."""
WORD = bytes(range(250)) * 2


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as started:
        yield started


def connected(proxy: FaultProxy) -> closing[socket.socket]:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=10.0)
    assert said(connection) == WORD
    return closing(connection)


def said(connection: socket.socket, seconds: float = 10.0) -> bytes | None:
    """What comes back of a word; None if nothing does, less if the connection ended."""
    connection.settimeout(seconds)
    found = b""
    try:
        connection.sendall(WORD)
        while len(found) < len(WORD) and (data := connection.recv(65_536)):
            found += data
    except TimeoutError:
        return found or None
    except OSError:
        pass
    return found


@pytest.mark.parametrize("kind", ["delay", "slow", "slice"])
def test_a_poor_line_still_carries_everything(kind: str, proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        proxy.begin(Episode(kind, 0.0))  # type: ignore[arg-type] - one of KINDS
        assert said(connection) == WORD
        proxy.end()
        assert said(connection) == WORD


@pytest.mark.parametrize("kind", ["reset", "close", "torn"])
def test_a_cut_ends_the_connections_that_were_there_and_no_others(kind: str, proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        proxy.begin(Episode(kind, 0.0))  # type: ignore[arg-type] - one of KINDS
        assert len(said(connection) or b"") < len(WORD)
        with connected(proxy):
            proxy.end()
        assert proxy.passed().cut == 1


def test_a_server_that_is_not_there_refuses_until_it_is_there_again(proxy: FaultProxy) -> None:
    proxy.begin(Episode("refuse", 0.0))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=10.0)
    proxy.end()
    with connected(proxy):
        pass


def test_what_was_sent_into_a_partition_arrives_behind_it(proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        proxy.begin(Episode("silent", 0.0))
        assert said(connection, PATIENCE) is None
        proxy.end()
        connection.settimeout(10.0)
        assert connection.recv(1) == WORD[:1]


def test_a_half_open_connection_stays_silent_and_new_ones_pass(proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        proxy.begin(Episode("half-open", 0.0))
        proxy.end()
        assert said(connection, PATIENCE) is None
        with connected(proxy):
            pass


@pytest.mark.parametrize("kind", ["deaf", "mute"])
def test_a_partition_of_one_direction_ends_without_the_answer(kind: str, proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        before = proxy.passed()
        proxy.begin(Episode(kind, 0.0))  # type: ignore[arg-type] - one of KINDS
        assert said(connection, PATIENCE) is None
        heard = proxy.passed().to_server_bytes - before.to_server_bytes
        assert heard == (len(WORD) if kind == "mute" else 0)
        proxy.end()
        assert said(connection) == b""


def test_a_plan_follows_from_its_seed() -> None:
    assert episodes(7, 25) == episodes(7, 25)
    assert episodes(7, 25) != episodes(8, 25)
    assert {episode.kind for episode in episodes(7, len(KINDS))} == set(KINDS)
