"""The DICOM upper layer as an association acceptor (PS3.8), streaming: no PDU or data set is kept whole.

pdu           bytes to PDUs, and P-DATA-TF values in pieces as they arrive (PS3.8 §9.3)
states        the acceptor's state table (PS3.8 Table 9-10)
provider      one connection: events, actions, ARTIM and the transport (PS3.8 §9.2)
negotiation   A-ASSOCIATE-RQ to A-ASSOCIATE-AC or -RJ (PS3.8 §9.3.2 to §9.3.4, PS3.7 Annex D)
dimse         command sets (PS3.7 §6.3, §9.3, Annex E)
association   the service user: messages in, responses out (PS3.7 §8)
deadlines     how long a peer may take, and who looks at the clock
acceptor      one listener's associations in one process: the way in
"""
