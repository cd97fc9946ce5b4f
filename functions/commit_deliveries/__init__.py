"""Asks destinations to commit to keeping what they took, and hears what they say."""
