"""Sampling of rollouts, through the served engine or in the trainer's own process."""
