-- Whether an operator took the deployment out of service; 1 until something serves again.
ALTER TABLE deployment ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;
