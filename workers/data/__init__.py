"""Bundled data: training prompts, the arithmetic task and its generator."""
