CREATE TABLE api_key (
    name            TEXT PRIMARY KEY,
    scopes          TEXT NOT NULL,      -- JSON list
    deployments     TEXT NOT NULL,      -- JSON list; empty: all
    requests_per_minute INTEGER NOT NULL,   -- 0: no limit
    tokens_per_minute   INTEGER NOT NULL,
    tokens_per_day      INTEGER NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL    -- 0: never
) STRICT;

CREATE TABLE api_key_secret (
    id              TEXT PRIMARY KEY,   -- the public part
    name            TEXT NOT NULL REFERENCES api_key (name) ON DELETE CASCADE,
    sha256          BLOB NOT NULL,      -- of the secret part
    created_unix_ms INTEGER NOT NULL,
    expires_unix_ms INTEGER NOT NULL    -- 0: with its key
) STRICT;

CREATE TABLE api_key_usage (
    name            TEXT NOT NULL REFERENCES api_key (name) ON DELETE CASCADE,
    day             INTEGER NOT NULL,   -- UTC, counted from 1970-01-01
    requests        INTEGER NOT NULL,
    tokens          INTEGER NOT NULL,
    PRIMARY KEY (name, day)
) STRICT, WITHOUT ROWID;
