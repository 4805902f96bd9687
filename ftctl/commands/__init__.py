"""The commands, one module for each group of nouns or verbs."""
