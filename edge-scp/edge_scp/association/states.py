"""The acceptor's half of the upper layer state table (PS3.8 §9.2, Tables 9-6 to 9-10).

States, events and actions have the standard's names. Left out is what only a requestor meets: Sta4, Sta5,
Sta9, Sta11 and Evt1, Evt2, with the actions AE-1 to AE-4 and AR-9.
"""

from enum import Enum


class State(Enum):
    """Where an association stands (PS3.8 Tables 9-1 to 9-5)."""

    Sta1 = "idle"
    Sta2 = "transport connection open, awaiting A-ASSOCIATE-RQ"
    Sta3 = "awaiting the local A-ASSOCIATE response"
    Sta6 = "association established, ready for data transfer"
    Sta7 = "awaiting A-RELEASE-RP"
    Sta8 = "awaiting the local A-RELEASE response"
    Sta10 = "release collision, acceptor: awaiting A-RELEASE-RP"
    Sta12 = "release collision, acceptor: awaiting the local A-RELEASE response"
    Sta13 = "awaiting the transport connection to close"

    # Looked up for every PDU: Enum's own hash is a call of Python code.
    __hash__ = object.__hash__


class Event(Enum):
    """What can happen to it (PS3.8 §9.2.2)."""

    Evt3 = "A-ASSOCIATE-AC PDU received"
    Evt4 = "A-ASSOCIATE-RJ PDU received"
    Evt5 = "transport connection indication"
    Evt6 = "A-ASSOCIATE-RQ PDU received"
    Evt7 = "A-ASSOCIATE response primitive: accept"
    Evt8 = "A-ASSOCIATE response primitive: reject"
    Evt9 = "P-DATA request primitive"
    Evt10 = "P-DATA-TF PDU received"
    Evt11 = "A-RELEASE request primitive"
    Evt12 = "A-RELEASE-RQ PDU received"
    Evt13 = "A-RELEASE-RP PDU received"
    Evt14 = "A-RELEASE response primitive"
    Evt15 = "A-ABORT request primitive"
    Evt16 = "A-ABORT PDU received"
    Evt17 = "transport connection closed"
    Evt18 = "ARTIM timer expired"
    Evt19 = "unrecognized or invalid PDU received"

    __hash__ = object.__hash__


class Action(Enum):
    """What is then done (PS3.8 Tables 9-6 to 9-9); `provider` says it in code."""

    AE_5 = "start ARTIM"
    AE_6 = "stop ARTIM; indicate A-ASSOCIATE, or send A-ASSOCIATE-RJ and start ARTIM"
    AE_7 = "send A-ASSOCIATE-AC"
    AE_8 = "send A-ASSOCIATE-RJ and start ARTIM"
    DT_1 = "send P-DATA-TF"
    DT_2 = "indicate P-DATA"
    AR_1 = "send A-RELEASE-RQ"
    AR_2 = "indicate A-RELEASE"
    AR_3 = "confirm A-RELEASE and close the transport connection"
    AR_4 = "send A-RELEASE-RP and start ARTIM"
    AR_5 = "stop ARTIM"
    AR_6 = "indicate P-DATA, while a release is requested"
    AR_7 = "send P-DATA-TF, while a release is indicated"
    AR_8 = "indicate the release collision"
    AR_10 = "confirm A-RELEASE after a collision"
    AA_1 = "send A-ABORT (service-user) and start or restart ARTIM"
    AA_2 = "stop ARTIM and close the transport connection"
    AA_3 = "indicate A-ABORT and close the transport connection"
    AA_4 = "indicate A-P-ABORT"
    AA_5 = "stop ARTIM, the transport connection being gone"
    AA_6 = "ignore the PDU"
    AA_7 = "send A-ABORT"
    AA_8 = "send A-ABORT (service-provider), indicate A-P-ABORT and start ARTIM"


def _rows() -> dict[State, dict[Event, Action]]:
    """Return Table 9-10, state by state; what is not in it cannot happen, or would be our own mistake."""
    s, e, a = State, Event, Action
    pdus = (e.Evt3, e.Evt4, e.Evt6, e.Evt10, e.Evt12, e.Evt13, e.Evt19)
    unexpected = dict.fromkeys(pdus, a.AA_8)
    ending = {e.Evt15: a.AA_1, e.Evt16: a.AA_3, e.Evt17: a.AA_4}
    return {
        s.Sta1: {e.Evt5: a.AE_5},
        s.Sta2: {
            **dict.fromkeys(pdus, a.AA_1),
            e.Evt6: a.AE_6,
            e.Evt16: a.AA_2,
            e.Evt17: a.AA_5,
            e.Evt18: a.AA_2,
        },
        s.Sta3: {**unexpected, **ending, e.Evt7: a.AE_7, e.Evt8: a.AE_8},
        s.Sta6: {**unexpected, **ending, e.Evt9: a.DT_1, e.Evt10: a.DT_2, e.Evt11: a.AR_1, e.Evt12: a.AR_2},
        s.Sta7: {**unexpected, **ending, e.Evt10: a.AR_6, e.Evt12: a.AR_8, e.Evt13: a.AR_3},
        s.Sta8: {**unexpected, **ending, e.Evt9: a.AR_7, e.Evt14: a.AR_4},
        s.Sta10: {**unexpected, **ending, e.Evt13: a.AR_10},
        s.Sta12: {**unexpected, **ending, e.Evt14: a.AR_4},
        s.Sta13: {
            **dict.fromkeys(pdus, a.AA_6),
            e.Evt6: a.AA_7,
            e.Evt16: a.AA_2,
            e.Evt17: a.AR_5,
            e.Evt18: a.AA_2,
            e.Evt19: a.AA_7,
        },
    }


TABLE = _rows()
