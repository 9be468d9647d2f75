"""The quota service: teams, tokens, limits, reservations and usage."""
