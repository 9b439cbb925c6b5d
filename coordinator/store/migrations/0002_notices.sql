-- Alerts and audit records on their way to Kafka, written in the transaction of what they speak of. Numbers are not
-- given twice.
CREATE TABLE notice (
    nr    INTEGER PRIMARY KEY AUTOINCREMENT,
    kind  TEXT    NOT NULL CHECK (kind IN ('alert', 'audit')),
    key   TEXT    NOT NULL,
    value TEXT    NOT NULL
) STRICT;

-- Alerts that are raised: what a coordinator that starts has to clear one day.
CREATE TABLE alert (
    id    TEXT PRIMARY KEY,
    alert TEXT NOT NULL
) STRICT, WITHOUT ROWID;
