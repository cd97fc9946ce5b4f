"""Changing attributes on the way to a destination; the kept object never changes, nor do pixels anywhere.

`bucky.routing.changes` says what may be asked for.

values.py     an attribute's values as text, and back
encoding.py   text in the data set's own character set, or in UTF-8
change.py     carrying out the changes on a header, telling what they changed
original.py   recording what was there before (PS3.3 §C.12.1.1.9)
splice.py     a stream of the data set with the changed elements in place of the old ones
"""
