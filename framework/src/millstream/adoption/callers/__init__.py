"""The callers' libraries: how each of them is recognised, and how rows get into its transaction. One file each."""
