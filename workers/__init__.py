"""Celery workers: rollouts, TS-OPSD and continued RL. The only package that imports torch."""
