-- Of each: as asked for, sha256, and where the bytes are on this node. Empty: none.
ALTER TABLE revision ADD COLUMN adapter TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN adapter_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN adapter_path TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt_path TEXT NOT NULL DEFAULT '';

CREATE TABLE finetune (
    id              TEXT PRIMARY KEY,
    subject         TEXT NOT NULL,
    spec            TEXT NOT NULL,      -- JSON: everything that it follows from, by digest
    state           TEXT NOT NULL,      -- unended, done, failed or cancelled
    detail          TEXT NOT NULL,
    report          TEXT NOT NULL,      -- JSON; empty: none
    created_unix_ms INTEGER NOT NULL,
    ended_unix_ms   INTEGER NOT NULL    -- 0: it has not ended
) STRICT;
