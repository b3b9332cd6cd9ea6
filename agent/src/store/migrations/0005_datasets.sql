-- What is recorded of datasets, those that came with the agent among them.
CREATE TABLE dataset (
    digest          TEXT PRIMARY KEY,   -- sha256
    governance      TEXT NOT NULL,      -- JSON; empty: nothing is recorded
    report          TEXT NOT NULL       -- JSON, what the checks found last; empty: it was never checked
) STRICT;
