"""A store described for others: a dataset card, and Croissant metadata."""
