"""Adapters of the transport port, one file an engine."""
