-- What somebody did at a neighbour, as its fact tells it: written once, however often it is heard.
ALTER TABLE audit_entries ADD COLUMN fact_id text UNIQUE;
