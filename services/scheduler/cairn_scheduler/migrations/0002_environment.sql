-- What `cairn.env` of the task file asks for, as model.Environment; an empty object: nothing.
ALTER TABLE jobs ADD COLUMN environment jsonb NOT NULL DEFAULT '{}';
