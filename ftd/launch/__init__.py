"""How a worker process comes to life, is spoken to, and ends."""
