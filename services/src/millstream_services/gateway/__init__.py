"""The gateway: every REST route of the system, and who may use it. It owns no data."""
