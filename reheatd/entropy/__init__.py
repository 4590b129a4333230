"""Entropy of the served policy: estimators, probes, series, collapse detector."""
