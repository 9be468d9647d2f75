"""The servers that `cairn up` starts where no URL names another: NATS, PostgreSQL and S3.

Each module prepares keys, config and folders, and gives back a `Program`: what to start, and the real
query that tells when it is ready. Nothing here supervises.
"""
