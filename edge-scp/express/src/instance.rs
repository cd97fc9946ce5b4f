//! One instance on its way from a sender to the spool, and what is known of it at each step.

use std::io::{Error, Write};
use std::sync::Arc;

use crate::command::StoreRequest;
use crate::file::SpoolFile;
use crate::identity::Identity;
use crate::p_data::PDataReader;
use crate::slot::SlotWriter;

const PREAMBLE: usize = 128;

/// An accepted presentation context, with the file meta information of its instances before and after their UID.
pub struct Context {
    pub sop_class: String,
    pub transfer_syntax: String,
    pub implicit: bool,
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

impl Context {
    /// Returns the preamble, prefix and file meta information of an instance (PS3.10 §7.1).
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

/// The sender of an association's instances, as records and log lines say it: JSON members without their braces.
pub struct Caller {
    pub record_fields: String,
    pub log_fields: String,
    /// The association's trace (W3C Trace Context); each instance has a span id of its own between the two.
    pub trace_id: String,
    pub trace_flags: String,
}

/// The C-STORE-RQ that an instance came with.
pub struct Request {
    pub context_id: u8,
    pub message_id: u16,
    pub command_set: Vec<u8>,
}

impl Request {
    pub fn new(store: &StoreRequest<'_>) -> Self {
        let (context_id, message_id) = (store.context_id, store.message_id);
        Self { context_id, message_id, command_set: store.command_set.to_vec() }
    }
}

/// The UIDs that an instance is named by, beside its SOP class.
pub struct Uids {
    pub sop_instance: String,
    pub study: String,
    pub series: String,
}

impl Uids {
    pub fn new(identity: &Identity<'_>) -> Self {
        let text = |uid: &[u8]| String::from_utf8_lossy(uid).into_owned();
        Self { sop_instance: text(identity.sop_instance), study: text(identity.study), series: text(identity.series) }
    }
}

/// Why an instance is not stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The spool has no capacity left, for this reason.
    Full(String),
    /// The disk returned this error (errno).
    Disk(i32),
    /// A sync failed. It may have been for any file, so this one cannot be trusted.
    NotSynced,
}

impl Refusal {
    pub fn disk(error: &Error) -> Self {
        Self::Disk(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Where the bytes of an instance go.
pub enum Storage {
    Slot(SlotWriter),
    File(SpoolFile),
}

impl Storage {
    /// Returns the bytes taken for it from the spool's capacity.
    pub fn taken(&mut self) -> &mut u64 {
        match self {
            Self::Slot(slot) => &mut slot.taken,
            Self::File(file) => &mut file.taken,
        }
    }

    /// Returns the SHA-256 of the data set, including its last pieces if it is in a file.
    pub fn sha256(&mut self, last: &[&[u8]]) -> [u8; 32] {
        match self {
            Self::Slot(slot) => slot.sha256(),
            Self::File(file) => file.sha256(last),
        }
    }

    pub fn data_set_offset(&self) -> u64 {
        match self {
            Self::Slot(slot) => slot.data_set_offset,
            Self::File(file) => file.data_set_offset,
        }
    }
}

/// An instance whose data set is arriving. One that is refused is read to its end all the same.
pub struct IncomingInstance {
    pub request: Request,
    pub context: Arc<Context>,
    pub uids: Uids,
    pub reader: PDataReader,
    pub storage: Result<Storage, Refusal>,
    /// The sync queue's epoch before anything was written.
    pub epoch: i64,
    /// Bytes of the data set so far.
    pub size: u64,
}

/// An instance that is complete in the spool, and waits to be durable before its sender is answered.
pub struct SealedInstance {
    pub session: u64,
    pub request: Request,
    pub epoch: i64,
    /// The key by which its slot is reported to be durable; None if it is in a file.
    pub slot: Option<u64>,
    pub completed_at: f64,
    pub spooled: SpooledInstance,
}

/// An instance in the spool, as the uploader and the log are told of it.
pub struct SpooledInstance {
    pub caller: Arc<Caller>,
    pub context: Arc<Context>,
    pub uids: Uids,
    pub sha256: String,
    pub traceparent: String,
    pub data_set_size: u64,
    /// The name of its entry in the spool.
    pub name: String,
    /// The bytes of its record, which were taken from the spool's capacity.
    pub taken: u64,
    /// Its file, if it has one, which is closed with this: not before its sender was answered.
    pub file: Option<SpoolFile>,
    /// From when it had arrived to when it was durable.
    pub seconds: f64,
}

impl SpooledInstance {
    /// Appends the log's canonical line, as `edge_scp.receive.store_handler` writes it.
    pub fn log(&self, lines: &mut Vec<u8>, timestamp: &str) {
        let Self { caller, context, uids, sha256, traceparent, data_set_size, .. } = self;
        let Uids { sop_instance, study, series } = uids;
        let (class, syntax, sender) = (&context.sop_class, &context.transfer_syntax, &caller.log_fields);
        let milliseconds = self.seconds * 1e3;
        // JSON has nothing to escape in UIDs, digests and traces; and writing to a vector does not fail.
        let _ = writeln!(
            lines,
            "{{\"component\":\"edge\",\"study_instance_uid\":\"{study}\",\"series_instance_uid\":\"{series}\",\
             \"sop_instance_uid\":\"{sop_instance}\",\"sop_class_uid\":\"{class}\",\"transfer_syntax_uid\":\"{syntax}\",\
             \"sha256\":\"{sha256}\",\"bytes\":{data_set_size},\"duration_ms\":{milliseconds:.2},\"status\":\"0x0000\",\
             {sender},\"traceparent\":\"{traceparent}\",\"event\":\"instance.acknowledged\",\"level\":\"info\",\
             \"timestamp\":\"{timestamp}\"}}"
        );
    }
}
