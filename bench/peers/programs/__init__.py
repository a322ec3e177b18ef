"""One small program per peer. They run in `.venv-peers`, where nothing of Millstream is installed.

Each takes a role: `provision` makes what it needs beyond the tables of the work, `produce` writes business rows with their
events and tells how long it took, `work` handles events until it is killed.
"""
