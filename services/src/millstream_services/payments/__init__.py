"""Payments: charged once, booked twice, and asked about until the provider answers."""
