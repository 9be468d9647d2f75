"""Interactive jobs as ordinary jobs: task files that are made here, and what they run inside the job.

`task` makes the files, for `cairn notebook`, `cairn code` and `cairn serve-model`. The rest runs in the job
(`python -m cairn._recipes ...`): it makes a secret, starts the server on the node's loopback, and stops it
when nobody uses it.
"""
