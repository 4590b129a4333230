"""Adapter versions: storage, lineage, validation, the proof of delivery and the hot-swap protocol."""
