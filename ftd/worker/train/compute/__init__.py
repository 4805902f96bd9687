"""How a network is computed: rows as trees, each prefix once, and little kept for the way back."""
