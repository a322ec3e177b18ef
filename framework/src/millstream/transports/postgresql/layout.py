"""The rows of the log in PostgreSQL, and every statement on them.

A foreign client reads the view and writes through the function, in a transaction of its own or in that of its business:

```sql
SELECT topic, partition, position, written, key, convert_from(value, 'UTF8') FROM millstream_log
WHERE topic = 'orders' AND partition = 0 AND position > 17 ORDER BY position LIMIT 100;

SELECT millstream_log_append('orders', 0, ARRAY['o-1'], ARRAY[convert_to('{"specversion": "1.0", …}', 'UTF8')]);
```

| column | what |
|---|---|
| `position` | from 1, without gaps |
| `written` | when, by the server's clock |
| `key` | the key; NULL: none. Of a foreign record without one, the attribute `subject` or `partitionkey` |
| `value` | the CloudEvent as structured JSON, in UTF-8; there is no binding for PostgreSQL, and no binary mode here |

A key belongs to partition `crc32(key) mod partitions`. Appending holds an advisory lock on the partition until the commit: so
the order of positions is the order of commits, a rollback leaves no gap, and nobody else appends to that partition meanwhile.

There is no counter that every append changes: under a transaction that stays open for hours somewhere in the cluster its
dead versions would pile up, and every append would walk over all of them. The last position is the largest that is there,
looked up from behind; where nothing is left it is `earliest`, which only retention changes. `earliest` is also the
floor below which nothing is looked for: deleted rows stay in the index for as long as that transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...message import Record
from ...postgresql.connection import Bound
from ...postgresql.values import array, encoded

__all__ = [
    "FORMAT",
    "READ_BYTES",
    "TABLES",
    "append",
    "bounds",
    "delete",
    "fetch",
    "find_deletable",
    "forget",
    "key_within",
    "provision",
    "save_marks",
    "select_format",
    "topics",
]

FORMAT = 1
READ_BYTES = 4 * 1024 * 1024
"""A read ends with the record that passes this size: a batch of large records must not fill memory."""
APPENDING = 0x6D6C  # "ml": the first half of the advisory locks' numbers; stores in the same database have others

TABLES = f"""
CREATE TABLE IF NOT EXISTS millstream_log_topics (topic text PRIMARY KEY, partitions int NOT NULL);
CREATE TABLE IF NOT EXISTS millstream_log_streams (
    stream int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, partition int NOT NULL,
    earliest bigint NOT NULL DEFAULT 0, UNIQUE (topic, partition)) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS millstream_log_records (
    stream int NOT NULL, position bigint NOT NULL, written timestamptz NOT NULL DEFAULT clock_timestamp(),
    key text, value bytea NOT NULL, PRIMARY KEY (stream, position))
    WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 10000);
CREATE TABLE IF NOT EXISTS millstream_log_marks (
    topic text NOT NULL, subscription text NOT NULL, partition int NOT NULL, position bigint NOT NULL,
    PRIMARY KEY (topic, subscription, partition)) WITH (fillfactor = 50);
CREATE OR REPLACE VIEW millstream_log AS
    SELECT topic, partition, position, written, key, value
    FROM millstream_log_streams JOIN millstream_log_records USING (stream);
CREATE OR REPLACE FUNCTION millstream_log_append(for_topic text, for_partition int, keys text[], messages bytea[])
RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $append$
DECLARE
    found_stream int;
    last bigint;
BEGIN
    SELECT stream INTO found_stream FROM millstream_log_streams WHERE topic = for_topic AND partition = for_partition;
    IF found_stream IS NULL THEN
        RETURN NULL;
    END IF;
    -- A statement of its own: the next one sees what the former holder of the lock has committed.
    PERFORM pg_advisory_xact_lock({APPENDING}, found_stream);
    SELECT coalesce(
        (SELECT r.position FROM millstream_log_records r WHERE r.stream = found_stream AND r.position > s.earliest
         ORDER BY r.position DESC LIMIT 1), s.earliest)
    INTO last FROM millstream_log_streams s WHERE s.stream = found_stream;
    INSERT INTO millstream_log_records (stream, position, key, value)
    SELECT found_stream, last + place, u.key, u.value
    FROM unnest(keys, messages) WITH ORDINALITY AS u (key, value, place) ORDER BY place;
    RETURN last + cardinality(messages);
END
$append$;
CREATE TABLE IF NOT EXISTS millstream_log_format (version int NOT NULL);
INSERT INTO millstream_log_format SELECT {FORMAT} WHERE NOT EXISTS (SELECT 1 FROM millstream_log_format);
"""  # noqa: S608 - numbers from code

_APPEND = b"SELECT millstream_log_append($1, $2, $3, $4)"
_FETCH = f"""
SELECT r.position, r.key, r.value FROM millstream_log_streams s CROSS JOIN LATERAL (
    SELECT position, key, value,
           sum(octet_length(value)) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - octet_length(value) AS before
    FROM millstream_log_records WHERE stream = s.stream AND position > greatest($3, s.earliest)
    ORDER BY position LIMIT $4) r
WHERE s.topic = $1 AND s.partition = $2 AND r.before < {READ_BYTES} ORDER BY r.position
""".encode()  # noqa: S608 - a number from code
_BOUNDS = b"""
SELECT s.earliest, coalesce(
    (SELECT r.position FROM millstream_log_records r WHERE r.stream = s.stream AND r.position > s.earliest
     ORDER BY r.position DESC LIMIT 1), s.earliest)
FROM millstream_log_streams s WHERE s.topic = $1 AND s.partition = $2
"""
_CREATE_TOPIC = b"INSERT INTO millstream_log_topics (topic, partitions) VALUES ($1, $2) ON CONFLICT DO NOTHING"
# Only with the count that is recorded: who provisions another one changes nothing.
_CREATE_STREAMS = b"""
INSERT INTO millstream_log_streams (topic, partition)
SELECT t.topic, n FROM millstream_log_topics t, generate_series(0, t.partitions - 1) AS n
WHERE t.topic = $1 AND t.partitions = $2 ON CONFLICT DO NOTHING
"""
_TOPICS = (
    b"SELECT topic, partitions FROM millstream_log_topics WHERE topic = $1 OR $1 IS NULL ORDER BY topic LIMIT 1000"
)
_SAVE_MARKS = b"""
INSERT INTO millstream_log_marks (topic, subscription, partition, position)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) AS u (topic, subscription, partition, position)
ORDER BY topic, subscription, partition
ON CONFLICT (topic, subscription, partition) DO UPDATE SET position = excluded.position
"""
_FORGET = b"DELETE FROM millstream_log_marks WHERE topic = $1 AND subscription = $2"
# The first rows above the floor that every subscription has read, up to one that is too young.
_DELETABLE = b"""
SELECT s.stream, s.earliest, c.up_to FROM millstream_log_streams s CROSS JOIN LATERAL (
    SELECT min(coalesce(m.position, 0)) AS slowest
    FROM (SELECT DISTINCT subscription FROM millstream_log_marks WHERE topic = s.topic) known
    LEFT JOIN millstream_log_marks m
    ON m.topic = s.topic AND m.subscription = known.subscription AND m.partition = s.partition) k CROSS JOIN LATERAL (
    SELECT coalesce(min(position) FILTER (WHERE written > now() - make_interval(secs => $2)), max(position) + 1) - 1 AS up_to
    FROM (SELECT position, written FROM millstream_log_records
          WHERE stream = s.stream AND position > s.earliest AND position <= k.slowest ORDER BY position LIMIT $1) r) c
WHERE k.slowest > s.earliest AND c.up_to > s.earliest
"""
# The floor first: whoever sweeps at the same time waits here, and then finds nothing above it.
_RAISE_FLOOR = b"UPDATE millstream_log_streams SET earliest = $2 WHERE stream = $1 AND earliest < $2"
_DELETE = b"DELETE FROM millstream_log_records WHERE stream = $1 AND position > $2 AND position <= $3"


def append(topic: str, partition: int, records: Sequence[Record]) -> Bound:
    """One row: the position of the last one; NULL: there is no such partition."""
    keys, _ = array([record.key for record in records], binary=False)
    values, _ = array([record.value for record in records], binary=True)
    return _APPEND, ([topic.encode(), b"%d" % partition, keys, values], [0, 0, 0, 1])


def fetch(topic: str, partition: int, after: int, limit: int) -> Bound:
    """Rows (position, key, value), by position."""
    return _FETCH, encoded((topic, partition, after, limit))


def bounds(topic: str, partition: int) -> Bound:
    """One row (earliest, latest), or none: there is no such partition."""
    return _BOUNDS, encoded((topic, partition))


def provision(topic: str, partitions: int) -> list[Bound]:
    """Create a topic unless it is there; the last statement's row is (topic, partitions) as it is now."""
    created = encoded((topic, partitions))
    return [(_CREATE_TOPIC, created), (_CREATE_STREAMS, created), topics(topic)]


def topics(topic: str | None = None) -> Bound:
    """Rows (topic, partitions): of one topic, or of all."""
    return _TOPICS, encoded((topic,))


def save_marks(marks: Sequence[tuple[str, str, int, int]]) -> Bound:
    """Write (topic, subscription, partition, position)."""
    columns = [array(column, binary=False)[0] for column in zip(*marks, strict=True)]
    return _SAVE_MARKS, (list[bytes | None](columns), None)


def forget(topic: str, subscription: str) -> Bound:
    """Remove a subscription's marks."""
    return _FORGET, encoded((topic, subscription))


def find_deletable(records: int, keep_seconds: float) -> Bound:
    """Rows (stream, earliest, up to which position it may go now), at most so many records each."""
    return _DELETABLE, encoded((records, keep_seconds))


def delete(stream: int, earliest: int, up_to: int) -> list[Bound]:
    """Remove the records of a stream up to a position, and remember that they are gone."""
    return [(_RAISE_FLOOR, encoded((stream, up_to))), (_DELETE, encoded((stream, earliest, up_to)))]


def select_format(exists: bool) -> Bound:
    """One row: the format of the tables; with `exists=False`, whether there are any."""
    if not exists:
        return b"SELECT to_regclass('millstream_log_format') IS NOT NULL", encoded(())
    return b"SELECT version FROM millstream_log_format", encoded(())


class _Placing(msgspec.Struct):
    """The attributes that order an event whose row has no key."""

    subject: str | None = None
    partitionkey: str | None = None


_placing = msgspec.json.Decoder(_Placing)


def key_within(value: bytes) -> str | None:
    """The key of a record without one. Our own have no subject then, so only foreign ones are changed by it."""
    try:
        found = _placing.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found.subject if found.subject is not None else found.partitionkey
