"""Patterns that bound failure: back-off, retry budget, circuit breaker, bulkhead, and the deadline of a call."""
