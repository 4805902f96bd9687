"""Numbered schema changes, oldest first; PRAGMA user_version counts those applied."""
