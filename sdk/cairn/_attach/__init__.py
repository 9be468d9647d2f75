"""Both ends of a session with a running attempt: `line` is what they speak, the rest is one end each.

The runner's end is `agent`, `command` and `connection`; a person's are `person` (a command) and `forward`.
"""
