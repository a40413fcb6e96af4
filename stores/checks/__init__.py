"""Whether a store is what it says: every file, every row against the others, and what can be mended."""
