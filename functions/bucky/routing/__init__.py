"""Routing: what an administrator writes, and what follows from it for an instance (pure).

document.py        the whole of it, as one validated document
destinations.py    where instances can go; delivery_hours.py and schedule.py say when, and how fast
rules.py           a rule: when it is looked at, what it asks, where it sends, what it changes on the way
attributes.py      naming an attribute: keyword, tag, or a path through sequences
conditions.py      the conditions, as validated data
ordering.py        which of two values comes first: numbers, dates, times, ages
unknown.py         what can be asked of private elements whose VR nobody wrote
changes.py         the changes, as validated data; crosswalk.py looks values up in CSV files or SQL databases
evaluation.py      from rules and facts to decisions, each explained
provenance.py      the functions that an instance came out of, so that none gets it again
conflicts.py       rules for other bytes under a known SOP Instance UID; corrections.py is what was decided
"""
