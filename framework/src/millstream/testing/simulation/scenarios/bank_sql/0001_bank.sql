-- n counts the transfers of an account from 1, in the order of their commits.
CREATE TABLE transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    n INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    request TEXT NOT NULL,
    reminded INTEGER NOT NULL
);
