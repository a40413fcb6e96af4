"""Logits that somebody else computed, as stores: arrays, and TinyViT's and FKD's stores. No file is ever run."""

from .convert import ImportConfig, import_store

__all__ = ["ImportConfig", "import_store"]
