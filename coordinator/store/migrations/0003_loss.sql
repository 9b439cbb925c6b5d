-- What was lost last: never in Kafka, or gone from it. One row at most. An alert tells of it, after a start as before.
CREATE TABLE loss (
    id     INTEGER PRIMARY KEY CHECK (id = 0),
    detail TEXT    NOT NULL,
    at     INTEGER NOT NULL
) STRICT;
