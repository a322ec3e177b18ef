"""What the SQLite store and the embedded log share: a file with one writer, group commit and checkpoints."""
