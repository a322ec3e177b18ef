"""A split system looks like one process from outside: one address, all routes, documents, metrics and operator's tools.

Real processes, a NATS server of their own, SQLite. One system for all of these tests.
"""

from __future__ import annotations

import http.client
import json
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .split_system import SplitSystem, until


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SplitSystem]:
    made = SplitSystem(tmp_path_factory.mktemp("split"))
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_probes_answer_for_all_processes(system: SplitSystem) -> None:
    assert (system.call("GET", "/live").status, system.call("GET", "/ready").status) == (200, 200)


def test_a_call_crosses_processes_and_its_event_crosses_the_log(system: SplitSystem) -> None:
    pids = system.call("GET", "/pids").json()
    assert pids == {"front": str(system.pid_of("front-0")), "back": str(system.pid_of("back-0"))}
    answer = system.note("a note")
    assert (answer.status, answer.json(), answer.headers["location"]) == (201, {"by": "ann"}, "/notes")
    again = system.note("a note")
    assert (again.status, again.body) == (201, answer.body)
    until(lambda: "a note" in system.read(), "the event is read")
    assert system.read().count("a note") == 1


def test_routes_of_other_processes_are_reached_through_the_edge(system: SplitSystem) -> None:
    echoed = system.call("POST", "/echo", {"a": "ä"}, {"x-test": "given"})
    assert (echoed.status, echoed.json()) == (200, {"a": "ä", "x-test": "given"})
    assert system.call("GET", "/read").status == 401, "who may call is decided by the service itself"
    assert system.call("GET", "/read?after=z", token=system.token()).json() == []
    assert system.call("GET", "/where/b%3Fc%20%C3%A4").json() == {"b?c ä": system.url}
    assert system.call("DELETE", "/echo").status == 405
    assert _announced(system, "/echo", 1_100_000) == 413
    assert system.call("GET", "/nothing").status == 404
    assert "x-request-id" in echoed.headers


def test_documents_describe_all_services(system: SplitSystem) -> None:
    openapi = system.call("GET", "/openapi.json").json()
    assert {"/notes", "/pids", "/read", "/echo", "/where/{name}"} <= set(openapi["paths"])
    asyncapi = system.call("GET", "/asyncapi.json").json()
    assert list(asyncapi["channels"]) == ["notes"]


def test_metrics_of_all_processes_stand_together(system: SplitSystem) -> None:
    lines = system.call("GET", "/metrics").body.decode().splitlines()
    for name, service in (("front-0", "front"), ("back-0", "back"), ("reader-0", "reader")):
        assert any(f'process="{name}",service="{service}"' in line for line in lines)
        assert any(line.startswith("process_resident_memory_bytes") and name in line for line in lines)
    described = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(described) == len(set(described))


def test_the_cli_sees_and_decides_in_every_process(system: SplitSystem) -> None:
    assert system.note("broken note").status == 201
    letter = until(lambda: system.cli("dlq", "list")[0]["dead_letters"], "the letter is dead")[0]
    assert (letter["service"], letter["subscription"], letter["key"]) == ("reader", "read", "broken note")
    [lanes] = system.cli("lanes")
    assert {row["service"] for row in lanes["positions"]} == {"reader"}
    assert [(row["key"], row["state"]) for row in lanes["lanes"]] == [("broken note", "held")]
    [shown] = system.cli("dlq", "show", letter["id"])
    assert "cannot be read" in shown["error"]
    edited = system.folder / "edited.json"
    edited.write_text('{"text": "mended note"}')
    [moved] = system.cli("dlq", "redrive", letter["id"], "--edit", str(edited))
    assert moved["moved"] == 1
    until(lambda: "mended note" in system.read(), "the mended letter is handled")
    [outbox] = system.cli("outbox")
    assert [row["service"] for row in outbox["outbox"]] == ["back", "front", "reader"]
    [done] = system.cli("publish", "notes", "Noted", '{"text": "by hand"}')
    assert done["topic"] == "notes"
    until(lambda: "by hand" in system.read(), "what an operator published is read")
    keys = [line["key"] for line in system.cli("tail", "notes", "--from", "earliest", "--no-follow")]
    assert {"broken note", "by hand"} <= set(keys)


def test_what_an_operator_may_not_do_is_refused_in_the_words_of_the_process(system: SplitSystem) -> None:
    body = {"service": "reader", "subscription": "nothing", "partition": 0, "to": 1}
    operator = system.token("op", "operator")
    refused = system.call("POST", "/admin/lanes/skip", body, token=operator)
    assert refused.status in (409, 422)
    assert "nothing" in refused.json()["detail"]
    assert system.call("GET", "/admin/lanes", token=system.token("ann")).status == 403
    assert system.call("POST", "/admin/operations/reader/skip", {}, token=system.token("ann")).status == 403


def test_lines_carry_the_name_of_their_process(system: SplitSystem) -> None:
    lines = system.log.read_text().splitlines()
    named = [json.loads(line)["process"] for line in lines if line.startswith('{"process"')]
    assert {"front-0", "back-0", "reader-0"} <= set(named)
    assert any(line.startswith("nats ") for line in lines)


def test_secrets_lie_in_files_of_their_owner_and_in_no_line(system: SplitSystem) -> None:
    for name in ("grpc.key", "nats/server.conf", "processes/admin.token", "admin.json", "processes/back-0.json"):
        assert stat.S_IMODE((system.data / name).stat().st_mode) == 0o600, name
    token = (system.data / "processes/admin.token").read_text()
    password = (system.data / "nats/server.conf").read_text().partition('password: "')[2].partition('"')[0]
    assert password
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in system.children()]
    for secret in (token, password):
        assert secret not in system.log.read_text()
        assert not any(secret in command for command in commands)


def _announced(system: SplitSystem, path: str, body_bytes: int) -> int:
    """The status of a POST that announces a body and has not sent it yet: refused by its head alone, the connection
    closes, and whoever is still sending then may see the reset before the answer."""
    with closing(http.client.HTTPConnection(urlsplit(system.url).netloc, timeout=20)) as connection:
        connection.putrequest("POST", path)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(body_bytes))
        connection.endheaders()
        with connection.getresponse() as answer:
            return answer.status
