"""The platform as processes: what cairn up starts, supervises and stops."""
