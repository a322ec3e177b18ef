"""Where a service's tables live, from a URL: a database of the service's own, or a schema of its own in a given one.

`postgresql://user@host:5432` means database `orders` for service `orders`; `postgresql://user@host/platform` means
schema `orders` in database `platform`, for servers where databases are handed out by somebody else, or several systems
share one. What is missing is made, as far as the user may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final
from urllib.parse import parse_qsl, urlencode

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..clock import seconds
from ..errors import MillstreamError, Misconfigured, StoreUnavailable
from .connection import NO_PARAMETERS, Connection, connect
from .pool import run
from .statements import script
from .values import encoded

__all__ = ["Database", "database_of", "prepare", "run_script"]

CONNECTIONS = 16
"""Of one service in one process, for transactions: beyond 8 to 16 a server of a few cores gains nothing."""
LIMIT_SECONDS = 8.0
"""A statement, a wait for a lock, and a pause inside a transaction may take this long: below half a claim's lease of 15 s,
so that a holder that stopped in the middle of a transaction does not keep its rows from who takes over (rule C1)."""
SCAN_LIMIT_SECONDS = 300.0
REPLY_EXTRA_SECONDS = 2.0
"""The server ends what takes too long by itself; a little later it counts as gone."""
SCRIPT_LOCK = (
    0x6D73  # "ms": held by whoever changes the schema, so that two processes that start together do not collide
)
_OWN = ("connections", "limit", "scan_limit")
_LIBPQ = frozenset(
    {"channel_binding", "gssencmode", "hostaddr", "krbsrvname", "passfile", "require_auth", "sslcert", "sslcertmode"}
    | {
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "sslsni",
        "ssl_min_protocol_version",
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,50}")
_CLOCK = """
CREATE FUNCTION millstream_now() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint$$
"""


@final
class Database(msgspec.Struct, frozen=True):
    """Where and how to connect. `conninfo` may hold a password: it is in no error and no log."""

    conninfo: str
    host: str
    name: str
    schema: str | None
    connections: int = CONNECTIONS
    limit_seconds: float = LIMIT_SECONDS
    scan_limit_seconds: float = SCAN_LIMIT_SECONDS

    def __repr__(self) -> str:
        return f"Database({self.shown})"

    @property
    def shown(self) -> str:
        """Its name in errors."""
        return f"postgresql {self.host}/{self.name}" + (f", schema {self.schema}" if self.schema else "")

    async def writer(self) -> Connection:
        """A connection for transactions."""
        limit = f"{round(self.limit_seconds * 1000)}ms"
        limits = {"statement_timeout": limit, "lock_timeout": limit, "idle_in_transaction_session_timeout": limit}
        return await self._connect("millstream", limits, self.limit_seconds)

    async def reader(self) -> Connection:
        """A connection for short reads of committed rows."""
        settings = {"default_transaction_read_only": "on", "statement_timeout": f"{round(self.limit_seconds * 1000)}ms"}
        return await self._connect("millstream", settings, self.limit_seconds)

    async def scanner(self) -> Connection:
        """A connection for reads that may take long."""
        limit = f"{round(self.scan_limit_seconds * 1000)}ms"
        settings = {"default_transaction_read_only": "on", "statement_timeout": limit}
        return await self._connect("millstream scan", settings, self.scan_limit_seconds)

    async def changer(self) -> Connection:
        """A connection for changes of the schema, which may take long."""
        settings = {"statement_timeout": f"{round(self.scan_limit_seconds * 1000)}ms"}
        return await self._connect("millstream schema", settings, self.scan_limit_seconds)

    async def listener(self, name: str) -> Connection:
        """A connection for LISTEN and NOTIFY. A wake-up needs not survive a crash, so its commits do not wait for the
        disk."""
        return await self._connect(name, {"synchronous_commit": "off", "statement_timeout": "5s"}, 5.0)

    async def _connect(self, application: str, settings: Mapping[str, str], seconds_: float) -> Connection:
        path = {"search_path": f'"{self.schema}"'} if self.schema else {}
        conninfo = make_conninfo(self.conninfo, application_name=application)
        return await connect(conninfo, {**settings, **path, "jit": "off"}, seconds_ + REPLY_EXTRA_SECONDS)


def database_of(url: str, service: str) -> Database:
    """What a URL says. Nothing is opened.

    Raises:
        Misconfigured: lists every problem of the URL.
    """
    base, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own = {name: options.pop(name) for name in _OWN if name in options}
    problems = [
        f"postgresql has no option {name!r}; there are {', '.join((*_OWN, *sorted(_LIBPQ)))}"
        for name in options
        if name not in _LIBPQ
    ]
    if not _NAME.fullmatch(service):
        problems.append(f"service {service!r} cannot be the name of a database: letters, digits, - and _, up to 51")
    durations = {"limit": LIMIT_SECONDS, "scan_limit": SCAN_LIMIT_SECONDS}
    for name in durations.keys() & own.keys():
        try:
            durations[name] = seconds(own[name])
        except Misconfigured as error:
            problems.append(f"option {name}: {error}")
        else:
            if durations[name] < 0.1:
                problems.append(f"option {name}: {own[name]} is less than 100ms")
    connections = own.get("connections", str(CONNECTIONS))
    if not connections.isdigit() or not 1 <= int(connections) <= 1000:
        problems.append(f"option connections: {connections!r} is no number from 1 to 1000")
    try:
        parts = conninfo_to_dict(base + (f"?{urlencode(options)}" if options and not problems else ""))
    except psycopg.ProgrammingError:
        # Its words may repeat the URL with the password in it.
        problems.append(
            "the URL cannot be read; it looks like postgresql://user@host:5432 or postgresql://host/database"
        )
        raise Misconfigured(problems) from None
    if problems:
        raise Misconfigured(problems)
    given = parts.pop("dbname", None)
    host = str(parts.get("host") or "localhost")
    keepalive = {
        "keepalives_idle": "5",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }
    return Database(
        make_conninfo(**{**keepalive, **parts, "dbname": str(given or service)}),  # pyright: ignore[reportArgumentType] - its stub wants a literal for each
        host=f"{host}:{parts.get('port') or 5432}",
        name=str(given or service),
        schema=service if given else None,
        connections=int(connections),
        limit_seconds=durations["limit"],
        scan_limit_seconds=durations["scan_limit"],
    )


async def prepare(database: Database) -> None:
    """Make what is missing: the database or the schema, and the store's clock.

    Raises:
        Misconfigured: the server refuses the user, or the user may not make it: names the statement for whoever may.
        StoreUnavailable: the server is away.
    """
    try:
        connection = await database.changer()
    except Misconfigured as error:
        if f'database "{database.name}" does not exist' not in str(error):
            raise
        await _create_database(database)
        connection = await database.changer()
    try:
        if database.schema is not None:
            # IF NOT EXISTS would ask for the right to make one, also where it is there.
            (found,) = await run(
                connection, ((b"SELECT to_regnamespace($1) IS NULL", encoded((f'"{database.schema}"',))),)
            )
            if connection.rows(found)[0][0]:
                await run_script(connection, f'CREATE SCHEMA IF NOT EXISTS "{database.schema}"')
        (found,) = await run(connection, ((b"SELECT to_regprocedure('millstream_now()') IS NULL", NO_PARAMETERS),))
        if connection.rows(found)[0][0]:
            await run_script(
                connection, f"DO $do$ BEGIN {_CLOCK}; EXCEPTION WHEN duplicate_function THEN NULL; END $do$"
            )
    except StoreUnavailable:
        raise
    except MillstreamError as error:
        raise Misconfigured(f"{database.shown}: {error}") from error
    finally:
        connection.close()


async def run_script(connection: Connection, sql: str) -> None:
    """Several statements in one transaction, one script at a time in a database.

    Raises:
        MillstreamError: what went wrong, as `errors.translated` has it; nothing of the script was kept.
    """
    body = script(sql).decode()
    await run(connection, ((b"BEGIN", NO_PARAMETERS),))
    try:
        await run(connection, ((f"SELECT pg_advisory_xact_lock({SCRIPT_LOCK})".encode(), NO_PARAMETERS),))
        for one in _statements(body):
            await run(connection, ((one.encode(), NO_PARAMETERS),))
    except BaseException:
        if connection.lost is None:
            await run(connection, ((b"ROLLBACK", NO_PARAMETERS),))
        raise
    await run(connection, ((b"COMMIT", NO_PARAMETERS),))


async def _create_database(database: Database) -> None:
    maintenance = make_conninfo(database.conninfo, dbname="postgres")
    # C: text sorts by its bytes, as in SQLite, and an upgrade of the machine's libraries breaks no index.
    sql = f"CREATE DATABASE \"{database.name}\" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
    connection = await connect(maintenance, {}, SCAN_LIMIT_SECONDS)
    try:
        await run(connection, ((sql.encode(), NO_PARAMETERS),))
    except StoreUnavailable:
        raise
    except MillstreamError as error:
        if "already exists" not in str(error) and "duplicate key" not in str(error):  # another process was faster
            raise Misconfigured(f"{database.shown}: {error}; somebody who may has to run: {sql}") from error
    finally:
        connection.close()


_SPLIT = re.compile(
    r"""(?P<end>;)|[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/""",
    re.DOTALL,
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


def _statements(sql: str) -> list[str]:
    """The statements of a script: the extended protocol, which a pipeline speaks, takes one at a time."""
    found: list[str] = []
    start = 0
    for token in _SPLIT.finditer(sql):
        if token["end"]:
            found.append(sql[start : token.start()])
            start = token.end()
    found.append(sql[start:])
    return [part for part in found if _COMMENT.sub("", part).strip()]
