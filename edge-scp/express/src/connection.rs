//! One connection on the fast path: where its association stands, and how it is handed back to Python.

use std::io::{Error, ErrorKind};
use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::clock;
use crate::command;
use crate::instance::{Caller, Context, IncomingInstance, Refusal, Request, SpooledInstance};
use crate::socket;

/// Whether a connection stays on the fast path, with what came of its turn, or is handed back.
pub type Served<T = ()> = Result<T, Box<Handback>>;

/// Where an association stands.
pub enum Phase {
    BetweenMessages,
    Receiving(Box<IncomingInstance>),
    /// The instance is complete, and its sender waits for the answer.
    Answering,
}

/// A connection's phase in numbers, for its deadlines.
#[derive(Debug, PartialEq)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all))]
pub struct Progress {
    /// 0 between messages, 1 receiving, 2 answering.
    pub phase: u8,
    /// When the phase began, by the monotonic clock.
    pub since: f64,
    /// Bytes of the data set in transit.
    pub received: u64,
}

/// A connection that the fast path serves; its owner keeps the descriptor open.
pub struct Connection {
    pub session: u64,
    pub descriptor: RawFd,
    pub caller: Arc<Caller>,
    pub contexts: Vec<(u8, Arc<Context>)>,
    pub phase: Phase,
    /// When the phase began, by the monotonic clock.
    pub since: f64,
    /// When a message began of which too little has arrived to serve it.
    pub begun: Option<f64>,
    /// Received, and not read yet.
    pub unread: Vec<u8>,
    /// Whether more must arrive before `unread` can be read.
    pub needs_more: bool,
    pub readable: bool,
    pub peer_closed: bool,
    /// Whether the event loop has it among those whose turn comes.
    pub queued: bool,
    /// Whether the last instance was too long for a slot: the next one will be, then.
    pub long_instances: bool,
    /// Instances that were stored and answered.
    pub stored: u64,
}

impl Connection {
    pub fn new(descriptor: RawFd, caller: Arc<Caller>, contexts: Vec<(u8, Arc<Context>)>) -> Self {
        Self {
            session: 0,
            descriptor,
            caller,
            contexts,
            phase: Phase::BetweenMessages,
            since: clock::monotonic(),
            begun: None,
            unread: Vec::new(),
            needs_more: false,
            readable: false,
            peer_closed: false,
            queued: false,
            long_instances: false,
            stored: 0,
        }
    }

    pub fn context(&self, id: u8) -> Option<Arc<Context>> {
        self.contexts.iter().find(|(each, _)| *each == id).map(|(_, context)| Arc::clone(context))
    }

    /// Returns whether it holds bytes that can be read before more are received.
    pub fn can_read(&self) -> bool {
        !self.unread.is_empty() && !self.needs_more
    }

    /// Returns whether there is something to do for it now.
    pub fn has_work(&self) -> bool {
        !matches!(self.phase, Phase::Answering) && (self.readable || self.can_read())
    }

    pub fn progress(&self) -> Progress {
        let since = self.since;
        match (&self.phase, self.begun) {
            (Phase::BetweenMessages, None) => Progress { phase: 0, since, received: 0 },
            (Phase::BetweenMessages, Some(begun)) => {
                Progress { phase: 1, since: begun, received: self.unread.len() as u64 }
            }
            (Phase::Receiving(instance), _) => Progress { phase: 1, since, received: instance.size },
            (Phase::Answering, _) => Progress { phase: 2, since, received: 0 },
        }
    }

    /// Notes that bytes were received into a larger or equal room.
    pub fn received(&mut self, received: usize, room: usize) -> Served {
        if received == 0 {
            return Err(Handback::closed(0));
        }
        if received < room {
            // Nothing more has arrived: the peer may be waiting for an acknowledgement.
            socket::acknowledge(self.descriptor);
            self.readable = self.peer_closed;
        }
        Ok(())
    }

    pub fn not_received(&mut self, error: &Error) -> Served {
        if error.kind() == ErrorKind::WouldBlock {
            self.readable = false;
            return Ok(());
        }
        Err(Handback::closed(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Answers Success for an instance that is durable, and goes on with what comes after it.
    pub fn respond(&mut self, request: &Request, instance: &SpooledInstance, pdu: &mut Vec<u8>) -> Served {
        self.stored += 1;
        (self.phase, self.since) = (Phase::BetweenMessages, clock::monotonic());
        pdu.clear();
        let (class, uid) = (instance.context.sop_class.as_bytes(), instance.uids.sop_instance.as_bytes());
        command::success(pdu, request.context_id, request.message_id, class, uid);
        match socket::send(self.descriptor, pdu) {
            Ok(sent) if sent == pdu.len() => Ok(()),
            Ok(sent) => Err(Box::new(Handback { unsent: pdu[sent..].to_vec(), ..Handback::default() })),
            Err(error) => Err(Handback::closed(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }
}

/// A C-STORE that was not answered: Python answers it, or goes on reading its data set.
pub struct Unanswered {
    pub request: Request,
    /// Whether all of the data set has arrived.
    pub complete: bool,
    /// Bytes of the data set so far.
    pub received: u64,
    /// Why the instance is not stored; None if its connection leaves in the middle of it.
    pub refusal: Option<Refusal>,
}

/// A connection that is handed back to Python, and how it stands.
#[derive(Default)]
pub struct Handback {
    pub session: u64,
    /// Instances that were stored and answered.
    pub stored: u64,
    pub unanswered: Option<Unanswered>,
    /// Received, and not read.
    pub unread: Vec<u8>,
    /// The rest of a response that the peer did not take at once.
    pub unsent: Vec<u8>,
    /// 0 if the peer has closed the connection, or the error (errno) that broke it.
    pub closed: Option<i32>,
}

impl Handback {
    /// Lets Python serve bytes that the fast path does not.
    pub fn unread(unread: Vec<u8>) -> Box<Self> {
        Box::new(Self { unread, ..Self::default() })
    }

    pub fn closed(error: i32) -> Box<Self> {
        Box::new(Self { closed: Some(error), ..Self::default() })
    }

    /// Lets Python answer an instance that arrived whole and is not stored.
    pub fn refused(request: Request, received: u64, refusal: Refusal) -> Box<Self> {
        let unanswered = Unanswered { request, complete: true, received, refusal: Some(refusal) };
        Box::new(Self { unanswered: Some(unanswered), ..Self::default() })
    }

    /// Adds what the connection itself knows; returns the instance that was arriving, if any.
    pub fn complete(&mut self, connection: Connection) -> Option<Box<IncomingInstance>> {
        (self.session, self.stored) = (connection.session, connection.stored);
        self.unread = [mem::take(&mut self.unread), connection.unread].concat();
        match connection.phase {
            Phase::Receiving(instance) => Some(instance),
            _ => None,
        }
    }
}
