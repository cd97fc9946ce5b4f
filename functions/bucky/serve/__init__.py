"""Serves one function handler over HTTP: `python -m bucky.serve` (the design's function contract)."""
