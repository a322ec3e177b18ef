"""Benchmarks: each measures one figure of the product and, in the same run on the same files, its bare ceiling."""
