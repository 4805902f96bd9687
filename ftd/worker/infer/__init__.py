"""Answers requests from one set of weights, with the adapters that each names."""
