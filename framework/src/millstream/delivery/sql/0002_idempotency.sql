-- Replies of idempotent requests, kept in the transaction of their work (delivery/idempotency.py).
CREATE TABLE millstream_idempotency (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    status INTEGER,               -- null only inside the transaction that does the work
    headers TEXT NOT NULL,        -- a JSON array of pairs
    body BLOB NOT NULL,
    created INTEGER NOT NULL,     -- microseconds, by the clock of the process that did the work
    PRIMARY KEY (scope, key)
);
CREATE INDEX millstream_idempotency_created ON millstream_idempotency (created);
