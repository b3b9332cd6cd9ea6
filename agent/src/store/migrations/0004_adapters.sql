-- Of each: as asked for, sha256, and where the bytes are on this node. Empty: none.
ALTER TABLE revision ADD COLUMN adapter TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN adapter_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN adapter_path TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN prompt_path TEXT NOT NULL DEFAULT '';
