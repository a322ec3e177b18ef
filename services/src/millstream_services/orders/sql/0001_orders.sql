-- Orders. Money in minor units, time in microseconds since 1970.
-- lines: a JSON array of [product, quantity, amount]; nothing ever asks for a single one.
-- payment_state: as last heard from the payments service.
CREATE TABLE orders (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    customer TEXT NOT NULL,
    currency TEXT NOT NULL,
    total INTEGER NOT NULL,
    lines TEXT NOT NULL,
    state TEXT NOT NULL,
    payment_id TEXT,
    payment_state TEXT,
    created INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_owner ON orders (owner, id);
CREATE INDEX orders_waiting ON orders (payment_id) WHERE state = 'PENDING' AND payment_id IS NOT NULL;

-- One row for each move. That an order was placed stands in its own row.
CREATE TABLE order_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entity TEXT NOT NULL,
    state TEXT NOT NULL,
    at INTEGER NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX order_history_entity ON order_history (entity, id);

-- Moves that were asked for and that the order's state did not allow.
CREATE TABLE refusals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entity TEXT NOT NULL,
    machine TEXT NOT NULL,
    was TEXT,
    wanted TEXT NOT NULL,
    at INTEGER NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX refusals_entity ON refusals (entity);
