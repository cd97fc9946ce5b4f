//! Bytes become instances: what a connection sends is received, understood, and passed to the spooler.
//!
//! Nothing has happened until an instance's four UIDs are known and are those that its command set announces. Until
//! then its message is kept as it was received, and is handed back from its first byte if it is not a plain C-STORE.

use std::borrow::Cow;
use std::io::{IoSliceMut, Result};
use std::mem;
use std::sync::Arc;

use crate::clock;
use crate::command::{self, Next, StoreRequest};
use crate::connection::{Connection, Handback, Phase, Served};
use crate::identity::{self, Identity, Reading};
use crate::instance::{IncomingInstance, Request, SealedInstance, Uids};
use crate::p_data::{BOTH_HEADERS, PDataReader, Stop};
use crate::slot;
use crate::socket;
use crate::spooler::{Spooler, total_size};
use crate::sync_queue::SyncQueue;

/// A message whose UIDs are not within its first bytes is not served here.
const MAX_UNREAD: usize = 64 * 1024;
/// The first bytes of a message tell what it is; the rest can then be received straight into a slot's buffer.
const FIRST_BYTES: usize = 32 * 1024;
/// After a shorter value, what follows it is worth more than not copying it.
const MIN_DIRECT: usize = 4096;
/// Pieces that one receive usually brings.
const USUAL_PIECES: usize = 16;

/// What was received straight into a slot's buffer.
struct Direct {
    received: usize,
    /// How much there was room for.
    room: usize,
    /// What of it is still to be read, because it was not the data set's.
    rest: Vec<u8>,
}

/// One connection's turn: one receive, and what follows from it.
pub struct Turn<'a> {
    pub connection: &'a mut Connection,
    pub spooler: &'a mut Spooler,
    pub queue: &'a SyncQueue,
    pub max_pdu: u32,
}

impl Turn<'_> {
    /// Receives once, using `buffer` for what does not go straight to a slot; returns the instance that is complete.
    pub fn serve(&mut self, buffer: &mut [u8]) -> Served<Option<SealedInstance>> {
        if !self.connection.has_work() {
            return Ok(None);
        }
        if self.connection.can_read() {
            let unread = mem::take(&mut self.connection.unread);
            return self.read(&unread);
        }
        if let Some(direct) = self.receive_directly() {
            return match direct {
                Ok(Direct { received, room, rest }) => {
                    self.connection.received(received, room)?;
                    self.read(&rest)
                }
                Err(error) => self.connection.not_received(&error).map(|()| None),
            };
        }
        let room = match self.connection.phase {
            Phase::BetweenMessages if self.spooler.has_slots() => FIRST_BYTES,
            _ => buffer.len(),
        };
        let received = match socket::receive(self.connection.descriptor, &mut buffer[..room]) {
            Ok(received) => received,
            Err(error) => return self.connection.not_received(&error).map(|()| None),
        };
        self.connection.received(received, room)?;
        if self.connection.unread.is_empty() {
            return self.read(&buffer[..received]);
        }
        let mut unread = mem::take(&mut self.connection.unread);
        unread.extend_from_slice(&buffer[..received]);
        self.read(&unread)
    }

    /// Receives a data set straight into its slot's buffer, from where the disk takes it; None where that is impossible.
    ///
    /// The data set comes in values with headers between them. The length of the current value is known. Another one
    /// probably follows, and is as long as there is room. So its headers are received beside the data; if they say
    /// something else, all that follows the current value is read like what is received elsewhere.
    fn receive_directly(&mut self) -> Option<Result<Direct>> {
        let Phase::Receiving(instance) = &mut self.connection.phase else { return None };
        let (remaining, headers) = instance.reader.expected();
        if remaining < MIN_DIRECT || !self.connection.unread.is_empty() {
            return None;
        }
        let spare = self.spooler.receive_buffer(&mut instance.storage)?;
        let at = remaining.min(spare.len());
        let (value, next) = spare.split_at_mut(at);
        let (headers, next) = if next.is_empty() || headers == 0 { (0, &mut [][..]) } else { (headers, next) };
        let mut between = [0; BOTH_HEADERS];
        let mut pieces = [IoSliceMut::new(value), IoSliceMut::new(&mut between[..headers]), IoSliceMut::new(next)];
        let received = match socket::receive_into(self.connection.descriptor, &mut pieces) {
            Ok(received) => received,
            Err(error) => return Some(Err(error)),
        };
        let of_value = received.min(value.len());
        let of_headers = (received - of_value).min(headers);
        let of_next = received - of_value - of_headers;
        let (room, between) = (value.len() + headers + next.len(), &between[..of_headers]);
        let (mut size, mut rest) = (of_value, Vec::new());
        instance.reader.skip(of_value);
        let mut after = instance.reader.clone();
        if of_next > 0 && after.continues(between, of_next) {
            after.skip(of_next);
            instance.reader = after;
            size += of_next;
        } else {
            rest = [between, &next[..of_next]].concat();
        }
        instance.size += size as u64;
        self.spooler.received(&mut instance.storage, size);
        Some(Ok(Direct { received, room, rest }))
    }

    /// Reads what was received; returns the instance if this was its last part.
    fn read(&mut self, data: &[u8]) -> Served<Option<SealedInstance>> {
        let mut pieces = Vec::with_capacity(USUAL_PIECES);
        let (read, stop) = match &mut self.connection.phase {
            Phase::Receiving(instance) => instance.reader.read(data, &mut pieces),
            _ => match self.begin(data, &mut pieces)? {
                Some(begun) => begun,
                None => return Ok(None),
            },
        };
        let Phase::Receiving(instance) = &mut self.connection.phase else { return Ok(None) };
        instance.size += total_size(&pieces);
        if stop == Stop::NeedMore {
            self.spooler.write(instance, &pieces);
            return Ok(None);
        }
        let rest = [&instance.reader.unused(), &data[read..]].concat();
        if stop == Stop::Foreign {
            return Err(Handback::unread(rest));
        }
        (self.connection.unread, self.connection.needs_more) = (rest, false);
        self.finish(&pieces)
    }

    /// Begins with a message; returns how much of it was read, or None if nothing can be said yet.
    fn begin<'d>(&mut self, data: &'d [u8], pieces: &mut Vec<&'d [u8]>) -> Served<Option<(usize, Stop)>> {
        let store = match command::next(data, self.max_pdu) {
            Next::Store(store) => store,
            Next::NeedMore => return self.wait_for_more(data),
            Next::Other => return Err(Handback::unread(data.to_vec())),
        };
        let context = self.connection.context(store.context_id);
        let context = context.filter(|context| context.sop_class.as_bytes() == store.sop_class);
        let Some(context) = context else { return Err(Handback::unread(data.to_vec())) };
        let mut reader = PDataReader::new(store.context_id, self.max_pdu, store.pdu_remaining);
        let (read, stop) = reader.read(&data[store.read..], pieces);
        let first = first_bytes(pieces);
        let identity = match identity::read(&first, context.implicit) {
            Reading::Found(identity) if agree(&identity, &store) => identity,
            Reading::NeedMore if stop == Stop::NeedMore => {
                self.connection.begun.get_or_insert_with(clock::monotonic);
                return self.wait_for_more(data);
            }
            _ => return Err(Handback::unread(data.to_vec())),
        };
        let epoch = self.queue.completed().epoch;
        let header = context.file_header(store.sop_instance);
        let Some(storage) = self.spooler.create(header, self.connection.long_instances) else {
            return Err(Handback::unread(data.to_vec()));
        };
        self.connection.since = self.connection.begun.take().unwrap_or_else(clock::monotonic);
        self.connection.phase = Phase::Receiving(Box::new(IncomingInstance {
            request: Request::new(&store),
            context: Arc::clone(&context),
            uids: Uids::new(&identity),
            reader,
            storage: Ok(storage),
            epoch,
            size: 0,
        }));
        Ok(Some((store.read + read, stop)))
    }

    /// Ends the instance that has arrived whole.
    fn finish(&mut self, last: &[&[u8]]) -> Served<Option<SealedInstance>> {
        let connection = &mut *self.connection;
        let Phase::Receiving(instance) = mem::replace(&mut connection.phase, Phase::Answering) else { return Ok(None) };
        connection.since = clock::monotonic();
        connection.long_instances = !slot::fits(instance.size);
        let size = instance.size;
        match self.spooler.seal(*instance, connection, last) {
            Ok(sealed) => Ok(Some(sealed)),
            Err((request, refusal)) => Err(Handback::refused(request, size, refusal)),
        }
    }

    fn wait_for_more<T>(&mut self, data: &[u8]) -> Served<Option<T>> {
        if data.len() > MAX_UNREAD {
            return Err(Handback::unread(data.to_vec()));
        }
        (self.connection.unread, self.connection.needs_more) = (data.to_vec(), true);
        Ok(None)
    }
}

/// Returns the first bytes of a data set: as they were received, unless they came in several pieces.
fn first_bytes<'a>(pieces: &[&'a [u8]]) -> Cow<'a, [u8]> {
    if let [piece] = pieces {
        return Cow::Borrowed(piece);
    }
    let mut joined = Vec::new();
    for piece in pieces {
        let room = MAX_UNREAD - joined.len();
        joined.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    Cow::Owned(joined)
}

/// Returns whether a data set is of the instance that its command set announces.
fn agree(identity: &Identity<'_>, store: &StoreRequest<'_>) -> bool {
    identity.sop_class == store.sop_class && identity.sop_instance == store.sop_instance
}
