-- What a person has to look at. One open case for a kind and subject.
CREATE TABLE cases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    opened INTEGER NOT NULL,
    closed INTEGER,
    resolution TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX cases_open ON cases (kind, subject) WHERE closed IS NULL;

-- Comparisons with the provider's book.
CREATE TABLE reconciliations (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    started INTEGER NOT NULL,
    compared INTEGER NOT NULL DEFAULT 0,
    resolved INTEGER NOT NULL DEFAULT 0,
    cases INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
