"""What a publishing transaction runs last: the locks of its keys, the bell, the rows.

On PostgreSQL two statements. The first locks the slots `crc32(topic, key) mod 128` of what is published, ascending: that
makes the order of rows the order of commits for a key (rule T4), whatever library the other publishers use. It also rings
the relay's bell, but only if the relay sleeps (rule R2): NOTIFY takes a lock over all databases at its commit, so under load
none is sent.

The bell is an advisory lock. A relay that sleeps holds it alone. A publisher tries to share it: if it cannot, the relay
sleeps, and it notifies. If it can, the relay is awake and cannot fall asleep before this transaction ends, because it
would need the lock alone; then it looks once more. Nobody waits for this lock, on neither side.

On SQLite one statement: whoever writes holds the only writer, from the first write to the commit.
"""

from __future__ import annotations

import zlib
from typing import final

from ..delivery.outbox import OUTBOX_CHANNEL
from ..errors import Misconfigured

__all__ = ["BELL_LOCKS", "COLUMNS", "SLOT_LOCKS", "Place"]

SLOT_LOCKS = 0x6D73
"""The first half of the numbers of the slots' locks, the same as in the PostgreSQL store."""
BELL_LOCKS = 0x6D74
COLUMNS = ("slot", "topic", "key", "value")


@final
class Place:
    """Where the tables are. schema: of PostgreSQL; without one they are found by the connection's search path."""

    def __init__(self, schema: str | None = None) -> None:
        if schema is not None and (not schema or '"' in schema or "\0" in schema):
            raise Misconfigured(f"schema={schema!r} cannot be the name of a schema")
        self.schema = schema
        self.wire = f"millstream.{schema}" if schema else "millstream"
        """The channel of NOTIFY: the one that the PostgreSQL store listens to for the same place."""
        self.bell = zlib.crc32(self.wire.encode()) - 2**31

    def table(self, name: str) -> str:
        """A table's name in SQL."""
        return f'"{self.schema}".{name}' if self.schema else name

    def lock_and_ring(self, slots: str) -> str:
        """Lock the slots of an array, in its order, and ring the bell if somebody sleeps. `slots`: its placeholder."""
        wire = self.wire.replace("'", "''")
        return (
            f"SELECT pg_advisory_xact_lock({SLOT_LOCKS}, slot) FROM unnest(CAST({slots} AS int[])) AS slot "  # noqa: S608 - ours
            f"UNION ALL SELECT pg_notify('{wire}', '{OUTBOX_CHANNEL}') "
            f"WHERE NOT pg_try_advisory_xact_lock_shared({BELL_LOCKS}, {self.bell})"
        )

    def insert_arrays(self, slots: str, topics: str, keys: str, values: str) -> str:
        """Insert rows given as four arrays, in their order. The arguments are the arrays' placeholders."""
        return (
            f"INSERT INTO {self.table('millstream_outbox')} (slot, topic, key, value) SELECT s, t, k, v "  # noqa: S608 - ours
            f"FROM unnest(CAST({slots} AS bigint[]), CAST({topics} AS text[]), CAST({keys} AS text[]), "
            f"CAST({values} AS bytea[])) WITH ORDINALITY AS u (s, t, k, v, place) ORDER BY place"
        )

    def insert_row(self, mark: str) -> str:
        """Insert one row; `mark` is a placeholder."""
        marks = ", ".join([mark] * len(COLUMNS))
        return f"INSERT INTO {self.table('millstream_outbox')} ({', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608 - ours
