"""The floor that remembers: the only room with SQL."""
