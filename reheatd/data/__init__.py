"""Bundled data: the arithmetic task and its generator."""
