"""One supervisor, and a process for each job (docs/adr/0015-one-process-for-each-job.md).

supervisor.py       starts workers again, tells them what they need, ends them
channel.py          messages between them
receive_worker.py   serves associations; pool.py are several of them
commit_worker.py    syncs the spool for all receive workers
upload_worker.py    uploads what is durable
port.py             listening, and handing connections to workers; connections.py says how many are let in
health.py           the health page
"""
