-- What a revision's engine is started with: all settings as JSON, their sha256, and those that were asked for beside the
-- configuration's. Empty: another server answers, or the revision is older than this.
ALTER TABLE revision ADD COLUMN engine TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN engine_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE revision ADD COLUMN engine_changes TEXT NOT NULL DEFAULT '';

-- The settings of the configuration that was followed last. Empty: they were not noted.
ALTER TABLE configured ADD COLUMN engine TEXT NOT NULL DEFAULT '';
