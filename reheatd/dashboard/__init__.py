"""The dashboard: pages for people, rendered by the daemon at `/` and below `/ui`; read `dashboard.py` first."""
