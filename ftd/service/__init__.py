"""The door: every use case, once, for both faces."""
