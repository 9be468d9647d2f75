-- Files of the caller's machine at paths on the node: a list of {target, digest, size, file}.
ALTER TABLE jobs ADD COLUMN mounts jsonb NOT NULL DEFAULT '[]';
