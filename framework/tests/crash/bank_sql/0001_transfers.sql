-- n counts the transfers of an account from 1, in the order of their commits.
CREATE TABLE transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    n INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    reminded INTEGER NOT NULL
);
-- Who draws the next number of an account holds this row until the commit: several processes may write.
CREATE TABLE numbers (account TEXT PRIMARY KEY, n INTEGER NOT NULL);
