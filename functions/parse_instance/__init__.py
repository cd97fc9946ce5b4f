"""Reads a stored instance's header and puts it in the index."""
