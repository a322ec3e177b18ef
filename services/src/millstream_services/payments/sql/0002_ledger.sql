-- The journal: rows are only ever added. The id of a hold's end is the hold's id and '/end', so it ends once.
CREATE TABLE transfers (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'post', 'void')),
    currency TEXT NOT NULL,
    debit TEXT NOT NULL,
    credit TEXT NOT NULL CHECK (credit <> debit),
    amount INTEGER NOT NULL CHECK (amount > 0),
    hold TEXT,
    at INTEGER NOT NULL
) WITHOUT ROWID;

-- Running sums of what is posted, changed with the journal; reconciliation compares them with it.
CREATE TABLE accounts (
    currency TEXT NOT NULL,
    account TEXT NOT NULL,
    debits INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    PRIMARY KEY (currency, account)
) WITHOUT ROWID;
