"""Keeps the promise over time: stable studies, reconciling, and rebuilding the index."""
