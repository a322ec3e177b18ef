-- What is told about an order, once for each fact. about: the payment or refund, where one kind can come several times.
-- told: when the mail server took the letter, or when it was written where there is no mail server; null until then.
CREATE TABLE notifications (
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    about TEXT NOT NULL,
    owner TEXT NOT NULL,
    told INTEGER,
    PRIMARY KEY (order_id, kind, about)
) WITHOUT ROWID;
