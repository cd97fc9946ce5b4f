"""From a C-STORE request to a durable entry of the spool, and only then the answer.

store_handler.py        decides, spools, answers: the failure policy of C-STORE
instance.py             one instance while it arrives
fast_path.py            the same in native code, for plain connections
commitment_reports.py   N-EVENT-REPORT of storage commitment (PS3.4 §J)
"""
