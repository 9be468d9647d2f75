"""SkyPilot as a place to run: driven over its API server's HTTP, never imported."""
