"""What people write and read as text, whatever it is about.

documents.py     YAML and JSON: one meaning for each document, errors with their line, bounds on what it may cost
names.py         what names of rules and destinations look like
patterns.py      regular expressions that end in time (RE2)
allow_entry.py   an entry of `BUCKY_DESTINATION_ALLOW`
identifiers.py   digests, UIDs and names, and ids that follow from what they name
listeners.py     what `BUCKY_EDGE_LISTENERS` says
wording.py       counted words
"""
