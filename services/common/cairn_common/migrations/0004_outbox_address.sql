-- Where the caller was whose doing a fact tells; it goes on beside the fact, for the audit alone. Empty: nobody's.
ALTER TABLE outbox ADD COLUMN address text NOT NULL DEFAULT '';
