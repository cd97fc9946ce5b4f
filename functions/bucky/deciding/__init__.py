"""From an instance, the routing and the index to the deliveries that are asked for: the same live and in a replay.

requests.py     deliveries of one instance
grouping.py     one request for all that a function gets of a series or study
explain.py      why, in words
correcting.py   carrying out a decision about conflicting bytes
"""
