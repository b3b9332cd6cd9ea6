-- What the Jobs screen shows of a fine-tuning that has ended: llmdeck.v1.JobReport with its curve and log.
ALTER TABLE finetune ADD COLUMN history BLOB NOT NULL DEFAULT x'';
