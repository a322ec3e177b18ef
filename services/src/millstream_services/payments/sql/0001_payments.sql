-- Payments, their attempts and refunds. Money in minor units, time in microseconds since 1970.

-- The intent. captured: what was taken. reserved: what refunds promised or gave back; it never exceeds captured.
-- ref: the provider's id of the charge.
CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    method TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    state TEXT NOT NULL,
    captured INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND captured),
    refunded INTEGER NOT NULL DEFAULT 0 CHECK (refunded BETWEEN 0 AND reserved),
    ref TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    settled INTEGER,
    run TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
-- One payment of an order at a time: a second may only begin when the first has failed.
CREATE UNIQUE INDEX payments_live ON payments (order_id) WHERE state <> 'FAILED';

-- ask_at: when the janitor asks about it next; null once it is settled. give_up_at: when asking ends.
CREATE TABLE attempts (
    payment_id TEXT NOT NULL,
    n INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    at INTEGER NOT NULL,
    ask_at INTEGER,
    asked INTEGER NOT NULL DEFAULT 0,
    give_up_at INTEGER,
    PRIMARY KEY (payment_id, n)
) WITHOUT ROWID;
CREATE INDEX attempts_ask ON attempts (ask_at) WHERE ask_at IS NOT NULL;

CREATE TABLE refunds (
    id TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    state TEXT NOT NULL,
    ref TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    created INTEGER NOT NULL,
    ask_at INTEGER,
    asked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX refunds_payment ON refunds (payment_id);
CREATE INDEX refunds_ask ON refunds (ask_at) WHERE ask_at IS NOT NULL;

-- Orders that were cancelled while no payment of them was under way: none may begin.
CREATE TABLE cancelled_orders (order_id TEXT PRIMARY KEY) WITHOUT ROWID;

-- Webhooks that were applied, by the provider's id of the event; written with their effect.
CREATE TABLE webhooks (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX webhooks_at ON webhooks (at);

-- Moves that were asked for and that the present state did not allow.
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
