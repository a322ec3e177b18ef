"""Millstream beside its peers: one machine, one run, the same engines, the same work. `make bench-peers`; see README.md."""
