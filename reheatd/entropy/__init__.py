"""Entropy of the served policy: estimators, probes, series and the collapse detector."""
