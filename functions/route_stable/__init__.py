"""Decides by rule where the instances of a stable series or study go."""
