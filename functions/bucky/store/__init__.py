"""The object store: every instance as it came, under a key that is computed from its UIDs and digest.

keys.py          which key an instance has
bucket.py        one bucket over the S3 API, with retries and time limits
objects.py       the seam, and its in-memory fake
headers.py       an instance's header by ranged reads
local_cache.py   copies on this machine's disk, for who reads soon after the upload
barrier.py       waiting until what was uploaded is durable
"""
