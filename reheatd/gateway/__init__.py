"""The OpenAI-compatible surface in front of the engines."""
