"""The edge: receives instances, keeps them on disk, then uploads and announces them.

__main__.py   wires everything; read it first
process       the supervisor and its workers
association   the upper layer, and what the edge accepts (PS3.7, PS3.8)
receive       from a C-STORE request to a durable entry of the spool, then the answer
spool         the entries on disk
upload        from the spool to the object store and the broker
metrics.py    what Prometheus is told
"""
