-- One coordinator's state. Everything that a reader of the topology may have seen is here before it is seen.

-- One row: the network, who leads, and the counters that never go back.
CREATE TABLE coordinator (
    id       INTEGER PRIMARY KEY CHECK (id = 0),
    network  TEXT    NOT NULL,
    term     INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    peer_set BLOB
) STRICT;

-- Invitations: never the secret, only its SHA-256.
CREATE TABLE token (
    hash       BLOB    PRIMARY KEY,
    id         TEXT    NOT NULL UNIQUE,
    scope      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    used_by    TEXT,
    CHECK ((used_at IS NULL) = (used_by IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE member (
    node       TEXT    PRIMARY KEY,
    grant      BLOB    NOT NULL,
    candidates TEXT    NOT NULL,
    joined_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE removal (
    node   TEXT PRIMARY KEY,
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The replica of the link-state database, byte for byte.
CREATE TABLE record (
    key    TEXT PRIMARY KEY,
    record BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The topology as the newest event left it.
CREATE TABLE entity (
    key    TEXT PRIMARY KEY,
    entity TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Every change of `entity`, written in the same transaction.
CREATE TABLE outbox (
    seq   INTEGER PRIMARY KEY,
    term  INTEGER NOT NULL,
    event TEXT    NOT NULL
) STRICT;
