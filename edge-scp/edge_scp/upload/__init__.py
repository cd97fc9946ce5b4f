"""From the spool to the object store and the broker: an entry goes when both have it.

uploader.py      one entry after another, several at once
dependency.py    a guarded system: leaving alone what is away
broker_link.py   the connection to NATS
"""
