"""The floor that decides: pure values and functions, no I/O, no clock, no randomness."""
