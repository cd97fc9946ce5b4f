"""Routing rules: what an administrator writes, and what follows from it for an instance.

paths.py         naming an attribute: keyword, tag, or a path through sequences
conditions.py    the conditions, as validated data
model.py         a rule: when it is looked at, what it asks, where it sends, what it changes on the way
comparing.py     which of two values comes first: numbers, dates, times, ages
evaluation.py    from rules and facts to decisions, each explained (pure)
"""
