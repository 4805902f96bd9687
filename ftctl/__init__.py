"""ftctl: the command-line client of ftd."""
