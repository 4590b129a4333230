"""Admin routes of the daemon."""
