"""The DICOM upper layer as an association acceptor (PS3.8), streaming: no PDU or data set is kept whole.

From the wire up, one file for each step:

    acceptor      one listener's associations in one process: the way in, and out when it drains
    connection    the transport connection: receives into a shared buffer, sends, holds a peer back
    pdu           bytes to PDUs, and the values of P-DATA-TF in pieces as they arrive (PS3.8 §9.3)
    states        the acceptor's state table (PS3.8 Table 9-10)
    provider      the state machine: events, actions, ARTIM (PS3.8 §9.2)
    service_user  the service user: accepts, rejects, releases, aborts (PS3.8 §7)
    negotiation   A-ASSOCIATE-RQ to A-ASSOCIATE-AC (PS3.8 §9.3.2, PS3.7 Annex D)
    messages      values to requests, requests to responses (PS3.7 §6.3, §8)
    dimse         command sets (PS3.7 §6.3.1, §9.3)
    timeouts      how long a peer may take
    limits        what a connection may cost

`boundaries` says what provider, user and transport expect of each other. Instances leave through `Sink`.
Between two messages the fast path may have the connection, for as long as what comes is common
(`edge_scp.receive.fast_path`).

What the edge accepts: `admission` (who may call), `tls`, `storage_syntaxes` (abstract and transfer syntaxes),
`store_service` (C-STORE requests), `sink` (what takes their data sets), `statuses`.
"""
