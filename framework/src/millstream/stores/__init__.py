"""Adapters of the store port, one file an engine."""
