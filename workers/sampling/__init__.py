"""Rollouts: what training needs from the policy, sampled through the served engine or in the trainer itself."""
