"""Ready services built on Millstream."""
