"""Stores in object storage: push, pull, catalog, and streaming through a local cache."""
