"""The composition root: binds services to engines, supervises, drains, stops."""
