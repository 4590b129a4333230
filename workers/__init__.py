"""Celery workers: rollouts, TS-OPSD and continued RL, with torch."""
