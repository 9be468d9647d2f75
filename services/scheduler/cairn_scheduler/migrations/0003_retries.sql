-- Allowances of single causes: {"INFRA": 5, "OOM": 0}. What is not named shares max_retries.
ALTER TABLE jobs ADD COLUMN retries jsonb NOT NULL DEFAULT '{}';
