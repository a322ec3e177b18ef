"""What the store and the log on PostgreSQL share: connections that pipeline, a pool of them, a listener, and errors."""
