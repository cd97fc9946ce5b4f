//! One association in the lane: where its connection stands, and what is known of the instance in hand.

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::command::Store;
use crate::file::SpoolFile;
use crate::keeping::Keeping;
use crate::transit::Transit;

const PREAMBLE: usize = 128;

/// An accepted presentation context: what a file's header has around the UID of its instance.
pub struct Context {
    pub transfer_syntax: String,
    pub sop_class: String,
    pub implicit: bool,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

impl Context {
    /// Return the preamble, prefix and file meta information (PS3.10 §7.1).
    pub fn file_header(&self, sop_instance: &[u8]) -> Vec<u8> {
        let padding = sop_instance.len() % 2;
        let length = sop_instance.len() + padding;
        let elements = self.before.len() + 8 + length + self.after.len();
        let mut header = vec![0; PREAMBLE];
        header.extend_from_slice(b"DICM\x02\0\0\0UL\x04\0");
        header.extend_from_slice(&(elements as u32).to_le_bytes());
        header.extend_from_slice(&self.before);
        header.extend_from_slice(b"\x02\0\x03\0UI");
        header.extend_from_slice(&(length as u16).to_le_bytes());
        header.extend_from_slice(sop_instance);
        header.extend_from_slice(&[0][..padding]);
        header.extend_from_slice(&self.after);
        header
    }
}

/// Who sends: what the log and the record of each instance say of the association.
pub struct Caller {
    /// Its fields as JSON has them, for records and for log lines.
    pub json: String,
    pub line: String,
    /// The trace's id and flags (W3C Trace Context), between which each instance's own id goes.
    pub trace_id: String,
    pub trace_flags: String,
}

/// A C-STORE-RQ in hand.
pub struct Request {
    pub context_id: u8,
    pub message_id: u16,
    pub command_set: Vec<u8>,
}

impl Request {
    pub fn of(store: &Store<'_>) -> Self {
        let (context_id, message_id) = (store.context_id, store.message_id);
        Self { context_id, message_id, command_set: store.command_set.to_vec() }
    }
}

/// Why an instance is not kept.
pub enum Refusal {
    /// There is no room, in these words.
    Full(String),
    /// The disk answered this error.
    Disk(i32),
    /// The disk failed for this file or another, so nothing is known of it.
    NotSynced,
}

/// An instance that arrives.
pub struct Arrival {
    pub request: Request,
    pub context: Arc<Context>,
    pub transit: Transit,
    /// What keeps it, unless it is refused.
    pub file: Result<Keeping, Refusal>,
    pub epoch: i64,
    pub size: u64,
    pub sop_instance: String,
    pub study: String,
    pub series: String,
}

/// Where an association stands.
pub enum Phase {
    Between,
    Receiving(Box<Arrival>),
    Answering,
}

/// A connection that the lane serves; its owner keeps the descriptor open.
pub struct Connection {
    pub descriptor: RawFd,
    pub caller: Arc<Caller>,
    pub contexts: Vec<(u8, Arc<Context>)>,
    pub phase: Phase,
    /// When that began, by the monotonic clock.
    pub since: f64,
    /// When a message began that is still held, because its data set has not said what it is.
    pub begun: Option<f64>,
    /// Received, and not used yet; `looked` if more must come before it can be.
    pub held: Vec<u8>,
    pub looked: bool,
    pub readable: bool,
    pub ending: bool,
    pub queued: bool,
    /// Whether the last instance was too long for a tray, as the next will be then.
    pub long: bool,
    pub answered: u64,
}

impl Connection {
    pub fn context(&self, id: u8) -> Option<Arc<Context>> {
        self.contexts.iter().find(|(each, _)| *each == id).map(|(_, context)| Arc::clone(context))
    }

    /// Tell whether there is something to do for it now.
    pub fn due(&self) -> bool {
        let unseen = !self.held.is_empty() && !self.looked;
        !matches!(self.phase, Phase::Answering) && (self.readable || unseen)
    }
}

/// An instance that is whole and waits for the committer.
pub struct Pending {
    pub token: u64,
    pub epoch: i64,
    pub request: Request,
    pub kept: Kept,
}

/// An instance on the disk, as the log and the uploader are told of it.
pub struct Kept {
    pub caller: Arc<Caller>,
    pub context: Arc<Context>,
    pub sop_instance: String,
    pub study: String,
    pub series: String,
    pub sha256: String,
    pub traceparent: String,
    pub data_set_size: u64,
    pub name: String,
    /// The bytes of its record; and its file, if it has one, which is closed when there is time.
    pub taken: u64,
    #[expect(dead_code, reason = "it is closed when it is dropped")]
    pub file: Option<SpoolFile>,
    /// When it was whole, and later how long it took from there to be durable.
    pub seconds: f64,
}

impl Kept {
    /// Append the log's canonical line, as `edge_scp.receive.store_handler` has it; no UID, digest or trace needs escaping.
    pub fn log(&self, lines: &mut Vec<u8>, timestamp: &str) {
        let Self { caller, context, sop_instance, study, series, sha256, traceparent, data_set_size, .. } = self;
        let (class, syntax, line, milliseconds) =
            (&context.sop_class, &context.transfer_syntax, &caller.line, self.seconds * 1e3);
        // Writing to a vector does not fail.
        let _ = writeln!(
            lines,
            "{{\"component\":\"edge\",\"study_instance_uid\":\"{study}\",\"series_instance_uid\":\"{series}\",\
             \"sop_instance_uid\":\"{sop_instance}\",\"sop_class_uid\":\"{class}\",\"transfer_syntax_uid\":\"{syntax}\",\
             \"sha256\":\"{sha256}\",\"bytes\":{data_set_size},\"duration_ms\":{milliseconds:.2},\"status\":\"0x0000\",\
             {line},\"traceparent\":\"{traceparent}\",\"event\":\"instance.acknowledged\",\"level\":\"info\",\
             \"timestamp\":\"{timestamp}\"}}"
        );
    }
}

/// A connection that left the lane, and how it stood.
pub struct Left {
    pub token: u64,
    pub answered: u64,
    /// The message in hand, if there is one: whether it has ended, its data set's bytes so far, and why it is refused.
    pub request: Option<Request>,
    pub ended: bool,
    pub size: u64,
    pub refusal: Option<Refusal>,
    /// Received and not used.
    pub held: Vec<u8>,
    /// Of the last response.
    pub unsent: Vec<u8>,
    /// Closed by the peer (0), or broken by this error.
    pub closed: Option<i32>,
}
