"""Immutable adapter versions, their lineage, validation and the hot-swap protocol."""
