"""NATS JetStream: one connection that nothing ends, and publishing that is acknowledged.

streams.py           the streams, and how long each keeps what
client.py            a client that reconnects whatever happens
connection.py        connecting, and a publisher of single events
batch_publisher.py   a publisher of atomic batches
"""
