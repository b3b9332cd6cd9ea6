CREATE TABLE deployment (
    name            TEXT PRIMARY KEY,
    stable_revision INTEGER NOT NULL,   -- what new requests go to: the promise that a restart keeps
    previous_revision INTEGER           -- what a rollback goes to
) STRICT;

CREATE TABLE configured (
    deployment      TEXT PRIMARY KEY,
    model           TEXT NOT NULL       -- what the configuration file named when it was last followed
) STRICT;

CREATE TABLE revision (
    deployment      TEXT NOT NULL,
    number          INTEGER NOT NULL,
    model           TEXT NOT NULL,      -- as asked for
    digest          TEXT NOT NULL,      -- sha256
    path            TEXT NOT NULL,      -- where the bytes are on this node
    created_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (deployment, number)
) STRICT;

CREATE TABLE rollout (
    id              TEXT PRIMARY KEY,
    deployment      TEXT NOT NULL,
    started_unix_ms INTEGER NOT NULL,
    active          INTEGER NOT NULL,
    message         BLOB NOT NULL       -- llmdeck.v1.Rollout
) STRICT;
CREATE INDEX rollout_by_deployment ON rollout (deployment, started_unix_ms);

CREATE TABLE idempotency (
    key             TEXT PRIMARY KEY,
    response        BLOB NOT NULL,      -- llmdeck.v1.ChangeResponse
    created_unix_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE file_digest (
    path            TEXT PRIMARY KEY,
    size_bytes      INTEGER NOT NULL,
    modified_ns     INTEGER NOT NULL,
    digest          TEXT NOT NULL
) STRICT;

CREATE TABLE frame (
    tier_ms         INTEGER NOT NULL,
    time_unix_ms    INTEGER NOT NULL,
    message         BLOB NOT NULL,      -- llmdeck.v1.Frame
    PRIMARY KEY (tier_ms, time_unix_ms)
) STRICT, WITHOUT ROWID;
