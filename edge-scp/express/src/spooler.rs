//! Stores instances while they arrive: in a slot if one is free and they fit, or else in a file of their own.

use std::io::{ErrorKind, Result as Io};
use std::mem;
use std::sync::Arc;

use crate::aio::Completion;
use crate::capacity::Capacity;
use crate::clock;
use crate::connection::Connection;
use crate::file::{ReadyFolder, SpoolFile};
use crate::instance::{IncomingInstance, Refusal, Request, SealedInstance, SpooledInstance, Storage};
use crate::random::{Random, hex};
use crate::record::Record;
use crate::slot;
use crate::slots::{SlotShare, Slots};

/// An instance's entry in the spool: its name, its file, or the key of its slot.
struct Entry {
    name: String,
    file: Option<SpoolFile>,
    slot: Option<u64>,
}

/// The spool, as far as one receiver writes to it.
pub struct Spooler {
    ready: ReadyFolder,
    capacity: Capacity,
    slots: Option<Slots>,
    random: Random,
}

impl Spooler {
    pub fn new(ready: ReadyFolder, capacity: Capacity) -> Self {
        Self { ready, capacity, slots: None, random: Random::new() }
    }

    /// Stores instances in slots from here on; returns the descriptor that is readable when some are durable.
    pub fn use_slots(&mut self, share: &SlotShare) -> Io<i32> {
        Ok(self.slots.insert(Slots::open(share)?).descriptor())
    }

    pub fn has_slots(&self) -> bool {
        self.slots.is_some()
    }

    /// Starts an instance with its file header; None if the disk or the spool's capacity does not allow it.
    pub fn create(&mut self, file_header: Vec<u8>, long: bool) -> Option<Storage> {
        let size = file_header.len() as u64;
        let slots = self.slots.as_mut().filter(|_| !long);
        let mut storage = match slots.and_then(|slots| slots.create(&file_header)) {
            Some(slot) => Storage::Slot(slot),
            None => Storage::File(SpoolFile::create(self.ready, file_header).ok()?),
        };
        if self.capacity.admit(size, storage.taken()).is_err() {
            self.discard(storage);
            return None;
        }
        Some(storage)
    }

    /// Stores pieces of an instance, unless it is refused already; what fails refuses it.
    pub fn write(&mut self, instance: &mut IncomingInstance, pieces: &[&[u8]]) {
        let Ok(storage) = &mut instance.storage else { return };
        let stored = match self.capacity.take(total_size(pieces), storage.taken()) {
            Ok(()) => self.write_pieces(instance, pieces).map_err(|error| Refusal::disk(&error)),
            Err(reason) => Err(Refusal::Full(reason)),
        };
        if let Err(refusal) = stored {
            self.refuse(&mut instance.storage, refusal);
        }
    }

    /// Returns where the next bytes of an instance can be received, if it is in a slot with room for them.
    pub fn receive_buffer<'a>(&mut self, storage: &'a mut Result<Storage, Refusal>) -> Option<&'a mut [u8]> {
        let prepared = match (&mut *storage, &mut self.slots) {
            (Ok(Storage::Slot(slot)), Some(slots)) if slot::remaining(slot.size) > 0 => slots.prepare(slot),
            _ => return None,
        };
        if let Err(error) = prepared {
            self.refuse(storage, Refusal::disk(&error));
        }
        match storage {
            Ok(Storage::Slot(slot)) => slot.spare(),
            _ => None,
        }
    }

    /// Counts bytes that were received where `receive_buffer` said.
    pub fn received(&mut self, storage: &mut Result<Storage, Refusal>, size: usize) {
        let Ok(Storage::Slot(slot)) = storage else { return };
        slot.filled(size);
        if let Err(reason) = self.capacity.take(size as u64, &mut slot.taken) {
            self.refuse(storage, Refusal::Full(reason));
        }
    }

    /// Ends an instance whose last pieces have arrived; refused ones come back with their request.
    pub fn seal(
        &mut self,
        mut instance: IncomingInstance,
        connection: &Connection,
        mut last: &[&[u8]],
    ) -> Result<SealedInstance, (Request, Refusal)> {
        if matches!(instance.storage, Ok(Storage::Slot(_))) {
            self.write(&mut instance, last);
            last = &[];
        }
        let IncomingInstance { request, context, uids, storage, epoch, size, .. } = instance;
        let storage = match storage {
            Ok(storage) => storage,
            Err(refusal) => return Err((request, refusal)),
        };
        let caller = Arc::clone(&connection.caller);
        let mut spooled = SpooledInstance {
            caller,
            context,
            uids,
            sha256: String::new(),
            traceparent: String::new(),
            data_set_size: size,
            name: String::new(),
            taken: 0,
            file: None,
            seconds: 0.0,
        };
        match self.seal_storage(storage, &mut spooled, last) {
            Ok(slot) => {
                let (session, completed_at) = (connection.session, connection.since);
                Ok(SealedInstance { session, request, epoch, slot, completed_at, spooled })
            }
            Err(refusal) => Err((request, refusal)),
        }
    }

    /// Returns the sealed slots that have become durable, or failed, since the last call.
    pub fn completed_slots(&mut self, wait: bool) -> Vec<Completion> {
        self.slots.as_mut().map_or_else(Vec::new, |slots| slots.completed(wait))
    }

    /// Stops storing an instance that is still arriving.
    fn refuse(&mut self, storage: &mut Result<Storage, Refusal>, refusal: Refusal) {
        if let Ok(storage) = mem::replace(storage, Err(refusal)) {
            self.give_up(storage);
        }
    }

    /// Gives up what was stored of an instance, and its capacity.
    pub fn give_up(&mut self, mut storage: Storage) {
        self.capacity.give_back(*storage.taken());
        self.discard(storage);
    }

    /// Takes an instance out of the spool that could not be made durable.
    pub fn take_out(&mut self, instance: &SpooledInstance) {
        if instance.file.is_some() {
            self.ready.unlink(&instance.name);
        }
        self.capacity.give_back(instance.taken);
    }

    /// A file without a name is gone when it is closed.
    fn discard(&mut self, storage: Storage) {
        if let (Storage::Slot(slot), Some(slots)) = (storage, &mut self.slots) {
            slots.abandon(slot);
        }
    }

    fn write_pieces(&mut self, instance: &mut IncomingInstance, pieces: &[&[u8]]) -> Io<()> {
        self.move_if_long(instance, total_size(pieces))?;
        match (&mut instance.storage, &mut self.slots) {
            (Ok(Storage::Slot(slot)), Some(slots)) => slots.write(slot, pieces),
            (Ok(Storage::File(file)), _) => file.write(pieces),
            _ => Ok(()),
        }
    }

    /// Moves an instance into a file of its own when it gets too long for its slot.
    fn move_if_long(&mut self, instance: &mut IncomingInstance, more: u64) -> Io<()> {
        let long = matches!(&instance.storage, Ok(Storage::Slot(slot)) if !slot::fits(slot.size + more));
        let Some(slots) = self.slots.as_mut().filter(|_| long) else { return Ok(()) };
        let file = SpoolFile::create(self.ready, Vec::new())?;
        let Ok(Storage::Slot(slot)) = mem::replace(&mut instance.storage, Ok(Storage::File(file))) else {
            return Ok(());
        };
        let Ok(Storage::File(file)) = &mut instance.storage else { return Ok(()) };
        (file.taken, file.data_set_offset) = (slot.taken, slot.data_set_offset);
        let (digest, copied) = slots.move_out(slot, |bytes| file.copy(bytes));
        file.continue_digest(digest);
        copied
    }

    /// Writes what goes after the data set, and fills in what is known then; returns the key of the slot, if any.
    fn seal_storage(
        &mut self,
        mut storage: Storage,
        spooled: &mut SpooledInstance,
        last: &[&[u8]],
    ) -> Result<Option<u64>, Refusal> {
        let span = match self.random.hex() {
            Ok(span) => span,
            Err(error) => {
                self.give_up(storage);
                return Err(Refusal::disk(&error));
            }
        };
        let received_ns = clock::unix_ns();
        spooled.traceparent = format!("00-{}-{span}-{}", spooled.caller.trace_id, spooled.caller.trace_flags);
        spooled.sha256 = hex(&storage.sha256(last));
        let footer = Record::new(spooled, storage.data_set_offset()).footer(received_ns);
        if let Err(reason) = self.capacity.take(total_size(last) + footer.len() as u64, storage.taken()) {
            self.give_up(storage);
            return Err(Refusal::Full(reason));
        }
        spooled.taken = *storage.taken();
        match self.add_entry(storage, last, &footer, received_ns) {
            Ok(Entry { name, file, slot }) => {
                (spooled.name, spooled.file) = (name, file);
                Ok(slot)
            }
            Err(error) => {
                self.capacity.give_back(spooled.taken);
                Err(Refusal::disk(&error))
            }
        }
    }

    fn add_entry(&mut self, storage: Storage, last: &[&[u8]], footer: &[u8], received_ns: u64) -> Io<Entry> {
        match (storage, &mut self.slots) {
            (Storage::Slot(slot), Some(slots)) => {
                let name = format!("{received_ns:020}-{}.slot", slot.index);
                Ok(Entry { name, file: None, slot: Some(slots.seal(slot, footer, received_ns)?) })
            }
            (Storage::File(mut file), _) => {
                let name = format!("{received_ns:020}-{}.dcm", self.random.hex()?);
                file.seal(self.ready, last, footer, &name)?;
                Ok(Entry { name, file: Some(file), slot: None })
            }
            (Storage::Slot(_), None) => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// Returns the bytes of pieces together.
pub fn total_size(pieces: &[&[u8]]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}
