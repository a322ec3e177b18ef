"""Killing processes: `forked` starts workers from a warm parent, `campaign` kills them at every point there is."""
