"""The library that every Bucky process shares; it imports none of them.

Read `events.py` first: it is what the processes tell each other, in envelopes of `cloudevents.py`. A package
imports those above it in this list, never one below:

text         what people write: safe reading of documents, names, patterns, entries of an allow-list
runtime      what any process needs: an HTTP server, connections kept open, TLS, ports, trouble to report
dicom        data sets: identity, elements, values, files (PS3.5, PS3.10)
dimse        the requestor's side of associations (PS3.7, PS3.8)
transcode    other transfer syntaxes, losing nothing
broker       NATS JetStream
store        the object store
differences  how two copies of an instance differ
routing      what an administrator writes: destinations, rules, changes; and what follows from it (pure)
morph        carrying out the changes
index        what is known of every instance: SQLite or PostgreSQL
deciding     from rules and the index to deliveries
forwarding   one sender for each kind of destination
serve        a function's process: `python -m bucky.serve`
cli          the `bucky` command
"""
