"""What any long-running process needs, whatever it does.

process.py           settings, log, and how a process ends
http_server.py       an ASGI application over HTTP, and the signals that end it
connection_pool.py   an HTTP client that keeps its connections
tls.py               whom to trust, and why a connection failed, in words
backoff.py           waiting longer after each failure; circuit_breaker.py leaves alone what is down
trouble.py           what a process says of itself when it is not well
ports.py             ports nobody listens on
garbage.py           the garbage collector, once everything is loaded
"""
