"""Contracts shared with the workers, and their dispatch over Celery."""
