"""Base models on their way in: fetched, converted, proven to load."""
