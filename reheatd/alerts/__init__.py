"""Alerts: what the daemon decides, told to webhooks."""
