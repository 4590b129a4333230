"""The reheatd command."""
