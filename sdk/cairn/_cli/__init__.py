"""The command line, `cairn`. Needs the extra `cli`."""
