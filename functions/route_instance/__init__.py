"""Decides by rule where an indexed instance goes."""
