"""Orders: their lifecycle, from placed to delivered."""
