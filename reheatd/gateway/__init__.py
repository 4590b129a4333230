"""OpenAI-compatible surface in front of the engine."""
