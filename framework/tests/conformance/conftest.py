"""The suites' hooks, and where this repository keeps the results that docs/capabilities.md is made from."""

pytest_plugins = ["millstream.testing.conformance.plugin"]
