"""Two thin faces over one service."""
