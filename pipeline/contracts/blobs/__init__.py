"""Blobs: content that is too large for an event; the event says which it is, and a store keeps it."""
