-- No table forbids a repeat: what is doubled must be seen, not refused.
CREATE TABLE booked (id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, n INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE TABLE balances (account TEXT PRIMARY KEY, amount INTEGER NOT NULL);
CREATE TABLE told (id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, n INTEGER NOT NULL);
CREATE TABLE reminders (id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, n INTEGER NOT NULL);
-- What an operator has put right, so that its dead letter can be handled when it is redriven.
CREATE TABLE repaired (account TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (account, n));
