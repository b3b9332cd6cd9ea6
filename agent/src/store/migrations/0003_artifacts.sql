CREATE TABLE artifact (
    digest          TEXT PRIMARY KEY,   -- sha256
    kind            TEXT NOT NULL,
    file            TEXT NOT NULL,      -- name within the registry's folder
    size_bytes      INTEGER NOT NULL,
    source          TEXT NOT NULL,      -- the path that it was added from
    added_by        TEXT NOT NULL,
    added_unix_ms   INTEGER NOT NULL
) STRICT;

CREATE TABLE artifact_tag (
    tag             TEXT PRIMARY KEY,
    digest          TEXT NOT NULL REFERENCES artifact (digest) ON DELETE CASCADE
) STRICT;

-- A parent may have come with the agent, or have been removed.
CREATE TABLE artifact_parent (
    digest          TEXT NOT NULL REFERENCES artifact (digest) ON DELETE CASCADE,
    parent          TEXT NOT NULL,
    PRIMARY KEY (digest, parent)
) STRICT, WITHOUT ROWID;
