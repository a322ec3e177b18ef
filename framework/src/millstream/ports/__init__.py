"""The seams to everything outside: the log, the store, instrumentation. Start with `transport.py`."""
