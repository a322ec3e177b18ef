"""One line per event, in one format, bounded, without secrets, and never at the cost of the work."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.ports.instrumentation import current_trace
from millstream.telemetry.logs import FIELDS_LIMIT, TEXT_LIMIT, Logs, TextRenderer, render_json
from millstream.telemetry.redaction import REDACTED, is_secret, redact_text
from millstream.telemetry.stdlib_logging import LogAdoption

SAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01"


class FixedClock:
    """Always the same moment."""

    def now_us(self) -> int:
        return 1_700_000_000_123_456

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, delay: float) -> None: ...

    def call_later(self, delay, callback) -> Any: ...


def logs(stream: Any, **options: Any) -> Logs:
    return Logs(stream, FixedClock(), **{"service": "orders", "render": render_json, **options})


def line(level: str = "info", event: str = "something", /, **fields: Any) -> dict[str, Any]:
    stream = io.StringIO()
    logs(stream).log(level, event, fields)
    (text,) = stream.getvalue().splitlines()
    return json.loads(text)


def test_a_line_has_time_level_event_service_and_fields_in_this_order() -> None:
    assert list(line("warning", "relay_waits", delay_s=1.5, topic="orders", held=None).items()) == [
        ("time", "2023-11-14T22:13:20.123456Z"),
        ("level", "warning"),
        ("event", "relay_waits"),
        ("service", "orders"),
        ("delay_s", 1.5),
        ("topic", "orders"),
        ("held", None),
    ]


def test_a_service_of_the_process_logs_under_its_own_name() -> None:
    assert line(service="payments")["service"] == "payments"


def test_the_trace_of_a_line_is_the_given_one_or_the_current_one() -> None:
    assert "trace_id" not in line()
    assert line(traceparent=SAMPLED)["trace_id"] == "ab" * 16
    current_trace.set(SAMPLED.replace("ab", "12"))
    try:
        assert line()["trace_id"] == "12" * 16
        assert line(traceparent=SAMPLED)["trace_id"] == "ab" * 16
    finally:
        current_trace.set(None)


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    log = logs(stream, level="warning")
    for level in ("debug", "info", "warning", "error", "odd"):
        log.log(level, level, {})
    assert [json.loads(text)["event"] for text in stream.getvalue().splitlines()] == ["warning", "error", "odd"]


def test_a_field_cannot_pass_itself_off_as_one_of_the_lines_own() -> None:
    found = line(time="never", level_="x", event_="y", trace_id="mine", traceparent=SAMPLED)
    assert found["time"].startswith("2023")
    assert found["time_"] == "never"
    assert (found["trace_id"], found["trace_id_"]) == ("ab" * 16, "mine")


def test_texts_and_the_number_of_fields_are_bounded() -> None:
    found = line(**{f"field{number}": "x" * 100_000 for number in range(100)})
    assert len(found) == 4 + FIELDS_LIMIT + 1
    assert found["fields_left_out"] == 100 - FIELDS_LIMIT
    assert len(found["field0"]) < TEXT_LIMIT + 50


def test_a_value_that_cannot_be_shown_is_shown_by_its_type() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert line(value=Broken())["value"] == "<Broken>"
    assert line(value=10**5_000)["value"] == "<int>"
    assert line(value=2**70)["value"] == str(2**70)
    assert line(value=float("nan"))["value"] is None


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("closed file")]
)
def test_a_stream_that_fails_costs_the_line_and_is_counted(error: Exception) -> None:
    class Broken:
        def write(self, text: str) -> None:
            raise error

        def flush(self) -> None: ...

    lost: list[int] = []
    logs(Broken(), lost=lambda: lost.append(1)).log("info", "something", {})
    assert lost == [1]


anything = st.text(st.characters(codec=None, exclude_categories=()))
values = st.none() | st.booleans() | st.integers() | st.floats() | anything | st.lists(st.text())


@given(anything, st.dictionaries(anything, values), st.booleans())
def test_every_call_makes_one_line_whatever_it_is_given(event: str, fields: dict[str, Any], as_json: bool) -> None:
    stream = io.StringIO()
    fields.pop("traceback", None)
    logs(stream, render=render_json if as_json else TextRenderer(colour=False)).log("info", event, fields)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    text.encode()
    if as_json:
        assert json.loads(text)["level"] == "info"


def test_text_is_for_people_and_coloured_only_where_asked() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    for stream, colour in ((plain, False), (coloured, True)):
        log = logs(stream, render=TextRenderer(colour=colour))
        log.log("error", "dead_letter", {"lane": "o 17", "traceback": "Traceback\n  line\x1b[2J"})
    assert plain.getvalue() == (
        '22:13:20.123 error   dead_letter orders lane="o 17"\n    Traceback\n      line\\x1b[2J\n'
    )
    assert "\x1b[1;31merror" in coloured.getvalue()


SECRET_NAMES = [
    "password", "db_password", "userPassword", "PASSWD", "token", "access_token", "refreshTokens", "secret", "client-secret",
    "Authorization", "proxy_authorization", "cookie", "set-cookie", "key", "api_key", "apiKey", "X-API-Key", "apikey",
    "APIKEY", "private_key", "signing_key", "keys", "pwd", "jwt", "credentials", "auth", "passphrase",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_that_speak_of_a_secret_are_recognised(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["lane", "monkey", "keyboard", "author", "subscription", "error", "passed", "message_id"]
)
def test_other_names_are_not(name: str) -> None:
    assert not is_secret(name)


secrets = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12).map(lambda text: f"s3cr3t{text}")


@given(st.sampled_from(SECRET_NAMES), secrets | st.integers(10**12).map(str), st.booleans())
def test_no_value_of_a_secret_field_comes_out(name: str, secret: str, as_json: bool) -> None:
    stream = io.StringIO()
    render = render_json if as_json else TextRenderer(colour=False)
    logs(stream, render=render).log("info", "x", {name: secret, "n": {"nested": 1}, f"{name}_": int(secret, 36)})
    assert secret not in stream.getvalue()
    assert str(int(secret, 36)) not in stream.getvalue()
    assert REDACTED in stream.getvalue()


TEMPLATES = [
    "cannot connect to postgresql://orders:{}@db:5432/orders",
    "cannot connect to redis://:{}@cache",
    "GET /x?access_token={}&page=2",
    "Authorization: Bearer {}",
    "authorization=Basic {}",
    'sent {{"password": "{}", "user": "u"}}',
    "{{'client_secret': '{}'}}",
    "PGPASSWORD={} psql",
    "api_key: {}, next",
    "api-key={}",
    "Set-Cookie: {}; Path=/",
]


@given(st.sampled_from(TEMPLATES), secrets, st.text(max_size=50), st.text(max_size=50))
def test_no_credential_inside_a_text_comes_out(template: str, secret: str, before: str, after: str) -> None:
    stream = io.StringIO()
    logs(stream).log("error", "failed", {"error": f"{before} {template.format(secret)} {after}"})
    assert secret not in stream.getvalue()


@pytest.mark.parametrize("padding", range(2 * TEXT_LIMIT - 60, 2 * TEXT_LIMIT + 10, 7))
def test_a_credential_at_the_place_where_a_text_is_cut_does_not_come_out(padding: int) -> None:
    # The first token is long: once it is blanked, what stood behind the limit moves into view.
    text = f"token={'t' * (padding - 30)} and postgresql://orders:s3cr3tpassword@db/orders more"
    assert "s3cr" not in json.dumps(line(error=text))


@pytest.mark.parametrize(
    "text",
    [
        "listening on http://127.0.0.1:8080/orders",
        "nats://localhost:4222 is away",
        "order o-17 of keyboard passed",
        "Key (id)=(o-17) already exists",
    ],
)
def test_plain_texts_are_left_as_they_are(text: str) -> None:
    assert redact_text(text) == text


def test_redaction_of_a_long_hostile_text_takes_no_long_time() -> None:
    for text in (
        "://" * 50_000,
        "password" * 30_000,
        "token=" * 30_000,
        "bearer " * 30_000,
        'secret="' + "\\" * 200_000,
    ):
        redact_text(text)  # quadratic patterns would take minutes and the suite's limit


@pytest.fixture
def adopted() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    adoption = LogAdoption(logs(stream), "info")
    adoption.start()
    adoption.start()
    yield stream
    adoption.stop()
    adoption.stop()


def test_lines_of_other_libraries_come_out_in_the_same_format(adopted: io.StringIO) -> None:
    logging.getLogger("uvicorn.access").info(
        '%s - "%s" %d', "127.0.0.1", "GET /?token=hunter22", 200, extra={"route": "/"}
    )
    logging.getLogger("some.library").debug("not shown")
    logging.getLogger("some.library").critical("bad %s", extra={"api_key": "k"})
    # By hand: the runner's own handler refuses such a record.
    few_arguments = logging.LogRecord("some.library", logging.WARNING, "", 1, "too few %s %s", ("x",), None)
    logging.getLogger().handlers[0].handle(few_arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    access, critical, few, warned = (json.loads(text) for text in adopted.getvalue().splitlines())
    assert (access["level"], access["event"], access["route"]) == ("info", "uvicorn.access", "/")
    assert access["message"] == f'127.0.0.1 - "GET /?token={REDACTED}" 200'
    assert (critical["level"], critical["message"], critical["api_key"]) == ("error", "bad %s", REDACTED)
    assert few["message"] == "too few %s %s"
    assert (warned["event"], warned["level"]) == ("py.warnings", "warning")


def test_a_logged_exception_brings_its_traceback(adopted: io.StringIO) -> None:
    try:
        raise ValueError("password=hunter22")
    except ValueError:
        logging.getLogger("some.library").exception("failed")
    found = json.loads(adopted.getvalue())
    assert found["traceback"].startswith("Traceback")
    assert "ValueError" in found["traceback"]
    assert "hunter22" not in found["traceback"]


def test_logging_is_given_back_as_it_was() -> None:
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    own = logging.NullHandler()
    uvicorn.addHandler(own)
    uvicorn.propagate = False
    before = (list(root.handlers), root.level, list(uvicorn.handlers), uvicorn.propagate)
    adoption = LogAdoption(logs(io.StringIO()), "debug")
    adoption.start()
    assert (uvicorn.handlers, uvicorn.propagate) == ([], True)
    adoption.stop()
    assert (list(root.handlers), root.level, list(uvicorn.handlers), uvicorn.propagate) == before
    uvicorn.removeHandler(own)
    uvicorn.propagate = True
