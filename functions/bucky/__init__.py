"""The library every Bucky process shares; it imports none of them.

Read `events.py` first: it is the whole wire format.
"""
