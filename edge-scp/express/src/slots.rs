//! The slots of one receiver: which it may fill, what is being written to them, and when they are durable.
//!
//! Nothing but bytes is written: no name, size or journal changes. Who owns a slot is a byte in memory that the edge's
//! processes share (docs/adr/0025).

use std::collections::HashMap;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use sha2::Sha256;

use crate::aio::{AsyncWrites, Completion};
use crate::buffer::{BLOCK, BUFFER, Buffer};
use crate::shared_memory::SharedBytes;
use crate::slot::{SLOT, SlotWriter, header};
use crate::syscall::{duplicate, retried};

/// States of a slot: free; not to be used until the edge starts again; owned by a receiver, to which its number is
/// added.
pub const FREE: u8 = 1;
pub const BROKEN: u8 = 3;
pub const OWNED: u8 = 16;

/// Where the slots are, and which of them a receiver may fill: every `step`th from `first`.
pub struct SlotShare {
    pub file: RawFd,
    pub states: RawFd,
    pub first: usize,
    pub step: usize,
    pub owner: u8,
}

#[derive(Clone, Copy)]
enum Stage {
    Filling,
    /// All of the record is being written; then the header will be.
    WritingRecord {
        received_ns: u64,
        size: u64,
    },
    WritingHeader,
    Abandoned,
}

/// What is known of the writes to one slot.
struct Progress {
    index: usize,
    under_way: usize,
    error: Option<i32>,
    stage: Stage,
}

pub struct Slots {
    file: OwnedFd,
    states: SharedBytes,
    next: usize,
    first: usize,
    step: usize,
    owner: u8,
    writes: AsyncWrites,
    progress: HashMap<u64, Progress>,
    last_key: u64,
    /// Completed while another slot's writes were waited for.
    unreported: Vec<Completion>,
}

impl Slots {
    pub fn open(share: &SlotShare) -> Result<Self> {
        Ok(Self {
            file: duplicate(share.file)?,
            states: SharedBytes::open(share.states)?,
            next: share.first,
            first: share.first,
            step: share.step,
            owner: OWNED + share.owner,
            writes: AsyncWrites::open()?,
            progress: HashMap::new(),
            last_key: 0,
            unreported: Vec::new(),
        })
    }

    /// Returns the descriptor that is readable when writes have completed.
    pub fn descriptor(&self) -> RawFd {
        self.writes.descriptor()
    }

    /// Starts to fill a slot with a record that begins with these bytes; None if no slot is free.
    pub fn create(&mut self, file_header: &[u8]) -> Option<SlotWriter> {
        let index = self.acquire()?;
        self.last_key += 1;
        self.progress.insert(self.last_key, Progress { index, under_way: 0, error: None, stage: Stage::Filling });
        Some(SlotWriter::new(self.last_key, index, self.writes.buffer(), file_header))
    }

    /// Appends pieces of the data set, for which there must be room in the slot.
    pub fn write(&mut self, slot: &mut SlotWriter, pieces: &[&[u8]]) -> Result<()> {
        pieces.iter().try_for_each(|piece| self.append(slot, piece))
    }

    /// Makes sure that there is memory to receive the next bytes of the data set into.
    pub fn prepare(&mut self, slot: &mut SlotWriter) -> Result<()> {
        let full = slot.buffer.as_ref().is_none_or(|buffer| buffer.filled == BUFFER);
        if full { self.next_buffer(slot) } else { Ok(()) }
    }

    /// Appends the footer and starts to make the slot durable; returns the key by which `completed` reports it.
    pub fn seal(&mut self, mut slot: SlotWriter, footer: &[u8], received_ns: u64) -> Result<u64> {
        let key = slot.key;
        match self.append(&mut slot, footer).and_then(|()| self.write_last(&mut slot, received_ns)) {
            Ok(()) => Ok(key),
            Err(error) => {
                self.abandon(slot);
                Err(error)
            }
        }
    }

    /// Gives a slot up; it is free again when nothing is being written to it any more.
    pub fn abandon(&mut self, slot: SlotWriter) {
        if let Some(buffer) = slot.buffer {
            self.writes.recycle(buffer);
        }
        if let Some(progress) = self.progress.get_mut(&slot.key) {
            progress.stage = Stage::Abandoned;
            if progress.under_way == 0 {
                self.release(slot.key);
            }
        }
    }

    /// Returns the sealed slots that have become durable, or failed, since the last call; the owner is the key.
    pub fn completed(&mut self, wait: bool) -> Vec<Completion> {
        let mut reported = std::mem::take(&mut self.unreported);
        for Completion { owner: key, error } in self.writes.completed(wait) {
            let Some(progress) = self.progress.get_mut(&key) else { continue };
            progress.under_way -= 1;
            progress.error = progress.error.or(error);
            if progress.under_way > 0 {
                continue;
            }
            match (progress.stage, progress.error) {
                (Stage::Filling, _) => {}
                (Stage::WritingRecord { received_ns, size }, None) => {
                    if let Err(error) = self.write_header(key, received_ns, size) {
                        reported.push(Completion { owner: key, error: error.raw_os_error().or(Some(libc::EIO)) });
                        self.release(key);
                    }
                }
                (Stage::WritingHeader, None) => {
                    self.progress.remove(&key);
                    reported.push(Completion { owner: key, error: None });
                }
                (Stage::Abandoned, _) => self.release(key),
                (_, error) => {
                    reported.push(Completion { owner: key, error });
                    self.release(key);
                }
            }
        }
        reported
    }

    /// Copies what a slot holds so far to `copy`, in order, and gives the slot up; returns the digest so far.
    pub fn move_out(
        &mut self,
        mut slot: SlotWriter,
        mut copy: impl FnMut(&[u8]) -> Result<()>,
    ) -> (Sha256, Result<()>) {
        let mut copied = self.wait_for(&slot);
        let mut at = BLOCK as u64;
        let mut buffer = self.writes.buffer();
        while copied.is_ok() && at < slot.offset {
            let size = (slot.offset - at).min(BUFFER as u64) as usize;
            let from = (slot.index as u64 * SLOT + at) as i64;
            let start = buffer.bytes().as_mut_ptr().cast();
            // SAFETY: the buffer is valid for writing `size` bytes, which are no more than BUFFER.
            copied = retried(|| unsafe { libc::pread(self.file.as_raw_fd(), start, size, from) }).and_then(|read| {
                at += read as u64;
                if read == 0 { Err(lost()) } else { copy(&buffer.bytes()[..read]) }
            });
        }
        self.writes.recycle(buffer);
        if let (Ok(()), Some(last)) = (&copied, &slot.buffer) {
            let start = if slot.offset == 0 { BLOCK } else { 0 };
            copied = copy(&last.content()[start..]);
        }
        let digest = slot.take_digest();
        self.abandon(slot);
        (digest, copied)
    }

    /// Waits for the writes of one slot.
    fn wait_for(&mut self, slot: &SlotWriter) -> Result<()> {
        loop {
            let Some(progress) = self.progress.get(&slot.key) else { return Err(lost()) };
            if progress.under_way == 0 {
                return progress.error.map_or(Ok(()), |error| Err(Error::from_raw_os_error(error)));
            }
            // Other slots may be completed meanwhile: the event loop is woken to report those.
            self.unreported = self.completed(true);
            self.writes.notify();
        }
    }

    fn append(&mut self, slot: &mut SlotWriter, mut data: &[u8]) -> Result<()> {
        slot.size += data.len() as u64;
        while !data.is_empty() {
            let Some(buffer) = &mut slot.buffer else { return Err(lost()) };
            let appended = buffer.append(data);
            data = &data[appended..];
            if appended == 0 {
                self.next_buffer(slot)?;
            }
        }
        Ok(())
    }

    fn next_buffer(&mut self, slot: &mut SlotWriter) -> Result<()> {
        let (full, offset) = slot.replace_buffer(self.writes.buffer());
        full.map_or(Ok(()), |full| self.start_write(slot.key, slot.index, full, offset, false))
    }

    /// Writes the last buffer, with the slot's header if that is in the same one.
    fn write_last(&mut self, slot: &mut SlotWriter, received_ns: u64) -> Result<()> {
        let Some(mut buffer) = slot.buffer.take() else { return Err(lost()) };
        let in_one = slot.offset == 0;
        if in_one {
            buffer.bytes()[..BLOCK].copy_from_slice(&header(received_ns, slot.size));
        }
        if let Some(progress) = self.progress.get_mut(&slot.key) {
            progress.stage =
                if in_one { Stage::WritingHeader } else { Stage::WritingRecord { received_ns, size: slot.size } };
        }
        self.start_write(slot.key, slot.index, buffer, slot.offset, in_one)
    }

    fn write_header(&mut self, key: u64, received_ns: u64, size: u64) -> Result<()> {
        let Some(progress) = self.progress.get_mut(&key) else { return Err(lost()) };
        progress.stage = Stage::WritingHeader;
        let index = progress.index;
        let mut buffer = self.writes.buffer();
        buffer.append(&header(received_ns, size));
        self.start_write(key, index, buffer, 0, true)
    }

    fn start_write(&mut self, key: u64, index: usize, buffer: Buffer, offset: u64, durable: bool) -> Result<()> {
        self.writes.start(key, self.file.as_raw_fd(), buffer, index as u64 * SLOT + offset, durable)?;
        if let Some(progress) = self.progress.get_mut(&key) {
            progress.under_way += 1;
        }
        Ok(())
    }

    /// Releases a slot that holds no instance.
    fn release(&mut self, key: u64) {
        if let Some(progress) = self.progress.remove(&key) {
            // After a failed write nobody knows whether the slot has a header: the next start looks.
            self.states.set(progress.index, if progress.error.is_none() { FREE } else { BROKEN });
        }
    }

    fn acquire(&mut self) -> Option<usize> {
        let count = self.states.len();
        for _ in 0..count.div_ceil(self.step) {
            if self.next >= count {
                self.next = self.first;
            }
            let index = self.next;
            self.next += self.step;
            if index < count && self.states.get(index) == FREE {
                self.states.set(index, self.owner);
                return Some(index);
            }
        }
        None
    }
}

/// The error of what should not happen: a slot whose writes are not known.
fn lost() -> Error {
    Error::from_raw_os_error(libc::EIO)
}
