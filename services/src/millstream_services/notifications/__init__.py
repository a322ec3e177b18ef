"""Notifications: what customers are told, from events, off the path of an order."""
