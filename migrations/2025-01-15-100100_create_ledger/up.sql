-- A ledger whose rules show at once when a write was lost or half of one was read:
-- the counter is the number of entries, and the balances always add up to the same.

CREATE TABLE counter (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    value INTEGER NOT NULL CHECK (value >= 0)
) STRICT;

INSERT INTO counter (id, value) VALUES (1, 0);

CREATE TABLE entry (
    writer TEXT NOT NULL,
    -- Counted by each writer for itself.
    sequence INTEGER NOT NULL,
    -- What the writer set the counter to, in the transaction that added this entry.
    counter_value INTEGER NOT NULL,
    PRIMARY KEY (writer, sequence)
) STRICT;

CREATE TABLE account (
    id INTEGER NOT NULL PRIMARY KEY,
    balance INTEGER NOT NULL
) STRICT;

INSERT INTO account (id, balance)
VALUES (1, 1000), (2, 1000), (3, 1000), (4, 1000), (5, 1000), (6, 1000), (7, 1000), (8, 1000);
