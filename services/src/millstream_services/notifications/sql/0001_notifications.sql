-- What was told about an order, once for each fact. about: the payment or refund, where one kind can come several times.
CREATE TABLE notifications (
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    about TEXT NOT NULL,
    owner TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (order_id, kind, about)
) WITHOUT ROWID;
