"""Patterns that bound failure: back-off, and the deadline of a call."""
