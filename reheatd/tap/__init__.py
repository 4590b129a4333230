"""The entropy tap: exact entropy of every decoded token, measured inside the engine and told to the daemon."""
