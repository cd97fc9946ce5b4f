"""Changing attributes on the way to a destination; the kept object never changes, nor do pixels anywhere.

actions.py       what an administrator may ask for, as validated data
crosswalks.py    lookup tables, from CSV files or SQL databases
values.py        an attribute's values as text, and back
change.py        carrying out the actions on a header, telling what they changed
original.py      recording what was there before (PS3.3 §C.12.1.1.9)
splice.py        a stream of the data set with the changed elements in place of the old ones
"""
