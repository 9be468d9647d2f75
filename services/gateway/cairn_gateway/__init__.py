"""The gateway: the HTTP API, live updates and the page."""
