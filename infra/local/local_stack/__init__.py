"""The embedded stack: everything Bucky needs, as processes of one user on one machine."""
