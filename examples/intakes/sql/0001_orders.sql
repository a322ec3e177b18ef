CREATE TABLE orders (
    number TEXT PRIMARY KEY,
    total INTEGER NOT NULL
);
