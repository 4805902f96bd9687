"""Models that answer: inference workers of our own, or a vLLM that runs already."""
