-- What the engine decides with. Empty: the team's own node, no class, the tree's flavors in their order.
ALTER TABLE jobs ADD COLUMN project text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN priority_class text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN flavors text[] NOT NULL DEFAULT '{}';
-- What it holds, from ADMITTED on: the flavor of the quota tree, and since when.
ALTER TABLE jobs ADD COLUMN flavor text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN admit_time timestamptz;
-- In PREEMPTING: the job that gets its place (empty: none), and since when.
ALTER TABLE jobs ADD COLUMN preempted_for text NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN preempt_time timestamptz;
