"""Runs one attempt of a job on this machine: ``python -m cairn._runner [--drain] <attempt's folder>``.

The folder is the contract with the scheduler: ``launch.json`` says what to run; ``state.json``, ``end.json``
and the spool say what came of it. Standard library only until the command runs: it must be light.
"""
