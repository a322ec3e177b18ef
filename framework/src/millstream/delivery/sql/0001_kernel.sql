-- Tables of the kernel, in each service's own store. Times are microseconds since 1970 by the store's clock.
-- One portable subset: a store's adapter maps INTEGER to 64 bits and drops WITHOUT ROWID where there is no such thing.

-- A row present is a row unpublished. slot = crc32(topic, key) mod 128 divides the relay's work.
CREATE TABLE millstream_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    slot INTEGER NOT NULL,
    topic TEXT NOT NULL,
    key TEXT,
    value BLOB NOT NULL
);

-- Keys whose oldest row the log refuses for good; a row without a key stands here as '#' and its id.
CREATE TABLE millstream_held_keys (
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    row_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (topic, key)
);

-- Messages that leave later than their commit.
CREATE TABLE millstream_timers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    due INTEGER NOT NULL,
    topic TEXT NOT NULL,
    key TEXT,
    value BLOB NOT NULL
);
CREATE INDEX millstream_timers_due ON millstream_timers (due, id);

-- events: {"type": newest version}, only grows until told.
CREATE TABLE millstream_subscriptions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    partitions INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    events TEXT NOT NULL,
    created INTEGER NOT NULL
);

-- The right to consume one partition, and how far it has come. Relay shards are claims of subscription 0.
-- suspect: messages behind the position that an unclean holder may have been running; they run alone (rule C4).
CREATE TABLE millstream_claims (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    owner TEXT,
    epoch INTEGER NOT NULL DEFAULT 0,
    expires INTEGER NOT NULL DEFAULT 0,
    position INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (subscription, partition)
);

CREATE TABLE millstream_workers (
    id TEXT PRIMARY KEY,
    expires INTEGER NOT NULL
);

CREATE TABLE millstream_inbox (
    subscription INTEGER NOT NULL,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    partition INTEGER NOT NULL,
    time INTEGER NOT NULL,
    PRIMARY KEY (subscription, source, id)
) WITHOUT ROWID;

-- The newest time accepted from a source: what bounds the inbox (rule C8).
CREATE TABLE millstream_watermarks (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    source TEXT NOT NULL,
    newest INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition, source)
) WITHOUT ROWID;

-- state: 0 waits until due, 1 held by a dead letter, 2 running, 3 waits for a worker that knows the type, 4 waits for a
-- missing number of its source until due (rule F3).
CREATE TABLE millstream_lanes (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition, tenant, key)
) WITHOUT ROWID;
CREATE INDEX millstream_lanes_due ON millstream_lanes (subscription, partition, state, due);

-- starts: begun and never given back; attempts: verdicts of the handler (rule C5). A place in a lane is (layout,
-- position): layout is the number of the partition layout, or the source's own number of the message (rules C11, F3).
CREATE TABLE millstream_parked (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    layout INTEGER NOT NULL,
    position INTEGER NOT NULL,
    value BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    error TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition, tenant, key, layout, position)
) WITHOUT ROWID;

-- lane: 0 the letter belongs to no lane (no readable key, older than the inbox, stale), 1 its lane went on, 2 it holds it.
CREATE TABLE millstream_dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    lane INTEGER NOT NULL,
    layout INTEGER NOT NULL,
    position INTEGER NOT NULL,
    value BLOB NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    died INTEGER NOT NULL
);
CREATE INDEX millstream_dead_letters_lane ON millstream_dead_letters (subscription, partition, tenant, key);

-- Sources that number their events: the smallest number that was not let in yet (rule F3).
CREATE TABLE millstream_sequences (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    expected INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition, tenant, key)
) WITHOUT ROWID;

-- A generation that replays: events that its handler emits for messages up to here are not published (rule F5).
CREATE TABLE millstream_replays (
    subscription INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition)
) WITHOUT ROWID;

CREATE TABLE millstream_schedules (
    name TEXT PRIMARY KEY,
    due INTEGER NOT NULL
);
