"""Runs ftctl as `python -m ftctl`."""

from ftctl.cli import main

main()
