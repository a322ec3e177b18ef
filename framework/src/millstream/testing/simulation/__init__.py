"""A deterministic simulator that runs the real code: one thread, one seed, virtual time, processes that can be killed.

`loop.py` is the event loop, `process.py` what a kill is; both know nothing of Millstream. Beside them stand simulated engines,
which pass the ports' conformance suites, and scenarios with their invariants.
"""
