"""The entropy tap: it measures the exact entropy of every decoded token in the engine, and tells the daemon."""
