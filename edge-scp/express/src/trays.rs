//! Trays: places for instances in one file whose blocks exist already, so that nothing but the bytes is written.
//!
//! A tray is a label of one block, then a spool record as a file of its own would have it. The label is written when
//! the rest is on the disk, and with it the tray says what it holds: no name, size or journal changes
//! (`edge_scp.spool.slots`). Who has a tray stands on a page that the edge's processes share.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use sha2::{Digest, Sha256};

use crate::aio::{BLOCK, BUFFER, Buffer, Ended, Writes};
use crate::shared::{States, duplicate};
use crate::socket::retried;

pub const TRAY: u64 = 1024 * 1024;
/// The longest record that a tray can hold.
pub const LONGEST: u64 = TRAY - BLOCK as u64;
const MAGIC: &[u8; 8] = b"BUCKYTR1";
/// What the page says of a tray: free, out of use until the edge starts again, or a receiver's.
const FREE: u8 = 1;
const BROKEN: u8 = 3;
const OWNED: u8 = 16;

/// An instance that is being written to a tray.
pub struct TrayFile {
    key: u64,
    pub index: usize,
    buffer: Option<Buffer>,
    /// Where the buffer goes in the tray.
    offset: u64,
    digest: Option<Sha256>,
    /// Where in the buffer the digest has got to.
    digested: usize,
    pub data_set_offset: u64,
    pub size: u64,
    pub taken: u64,
}

impl TrayFile {
    /// Return the SHA-256 of the data set.
    pub fn sha256(&mut self) -> [u8; 32] {
        self.digest_rest();
        self.digest.take().map_or([0; 32], |digest| digest.finalize().into())
    }

    /// Have all of the buffer in the digest: as much as can be at once, so that meanwhile the peer can send the rest.
    fn digest_rest(&mut self) {
        let (Some(digest), Some(buffer)) = (&mut self.digest, &self.buffer) else { return };
        digest.update(&buffer.content()[self.digested..]);
        self.digested = buffer.filled;
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Filling,
    /// Whole but for its label.
    Sealing(u64, u64),
    Labelling,
    Abandoned,
}

struct Writer {
    index: usize,
    under_way: usize,
    error: Option<i32>,
    stage: Stage,
}

/// What is done for an instance beside keeping its bytes.
pub struct Care {
    pub digest: bool,
    /// Whether it is on the disk before it is answered.
    pub durable: bool,
}

/// The trays of one process.
pub struct Trays {
    file: OwnedFd,
    states: States,
    next: usize,
    step: usize,
    first: usize,
    owner: u8,
    writes: Writes,
    writers: HashMap<u64, Writer>,
    last_key: u64,
    care: Care,
    /// Ended while others were waited for.
    unheard: Vec<Ended>,
}

impl Trays {
    /// Open the trays in a file, as `page` says how they stand; `stripe` is the first that may be taken, and the step.
    pub fn open(file: RawFd, page: RawFd, stripe: (usize, usize), owner: u8, care: Care) -> Result<Self> {
        let (first, step) = stripe;
        Ok(Self {
            file: duplicate(file)?,
            states: States::open(page)?,
            next: first,
            step,
            first,
            owner: OWNED + owner,
            writes: Writes::open()?,
            writers: HashMap::new(),
            last_key: 0,
            care,
            unheard: Vec::new(),
        })
    }

    /// Return the descriptor that is readable when writes have ended.
    pub fn descriptor(&self) -> RawFd {
        self.writes.descriptor()
    }

    /// Take a tray for a file that begins with these bytes; none if all are taken.
    pub fn create(&mut self, header: &[u8]) -> Option<TrayFile> {
        let index = self.take()?;
        self.last_key += 1;
        self.writers.insert(self.last_key, Writer { index, under_way: 0, error: None, stage: Stage::Filling });
        let mut buffer = self.writes.buffer();
        buffer.bytes()[..BLOCK].fill(0);
        buffer.filled = BLOCK;
        buffer.append(header);
        let data_set_offset = header.len() as u64;
        Some(TrayFile {
            key: self.last_key,
            index,
            offset: 0,
            digest: self.care.digest.then(Sha256::new),
            digested: buffer.filled,
            buffer: Some(buffer),
            data_set_offset,
            size: data_set_offset,
            taken: 0,
        })
    }

    /// Append pieces of the data set; there must be room for them (`LONGEST`).
    pub fn write(&mut self, file: &mut TrayFile, pieces: &[&[u8]]) -> Result<()> {
        pieces.iter().try_for_each(|piece| self.append(file, piece))
    }

    /// Append the footer and have all of it made durable; `ended` says when it is, by the key returned.
    pub fn seal(&mut self, mut file: TrayFile, footer: &[u8], when: u64) -> Result<u64> {
        if let Err(error) = self.append(&mut file, footer) {
            self.abandon(file);
            return Err(error);
        }
        let Some(mut buffer) = file.buffer.take() else { return Err(broken()) };
        let whole = file.offset == 0;
        if whole {
            buffer.bytes()[..BLOCK].copy_from_slice(&label(when, file.size));
        }
        let writer = self.writers.get_mut(&file.key);
        if let Some(writer) = writer {
            writer.stage = if whole { Stage::Labelling } else { Stage::Sealing(when, file.size) };
        }
        match self.begin(file.key, file.index, buffer, file.offset, whole) {
            Ok(()) => Ok(file.key),
            Err(error) => {
                self.abandon(file);
                Err(error)
            }
        }
    }

    /// Give a tray up; it is free again when nothing is written to it any more.
    pub fn abandon(&mut self, file: TrayFile) {
        if let Some(buffer) = file.buffer {
            self.writes.give_back(buffer);
        }
        if let Some(writer) = self.writers.get_mut(&file.key) {
            writer.stage = Stage::Abandoned;
            if writer.under_way == 0 {
                self.end(file.key);
            }
        }
    }

    /// Return the memory that the next bytes of the data set go to.
    pub fn room<'a>(&mut self, file: &'a mut TrayFile) -> Result<&'a mut [u8]> {
        if file.buffer.as_ref().is_none_or(|buffer| buffer.filled == BUFFER) {
            self.next_buffer(file)?;
        }
        file.buffer.as_mut().map(Buffer::room).ok_or_else(broken)
    }

    /// Note that so many bytes of the data set are there, from where `room` began.
    pub fn filled(file: &mut TrayFile, size: usize) {
        let Some(buffer) = &mut file.buffer else { return };
        buffer.filled += size;
        file.size += size as u64;
    }

    /// Return which files are durable, or have failed with an error, since the last call.
    pub fn ended(&mut self, wait: bool) -> Vec<Ended> {
        let mut ended = std::mem::take(&mut self.unheard);
        for (key, error) in self.writes.ended(wait) {
            let Some(writer) = self.writers.get_mut(&key) else { continue };
            writer.under_way -= 1;
            writer.error = writer.error.or(error);
            if writer.under_way > 0 {
                continue;
            }
            match (writer.stage, writer.error) {
                (Stage::Filling, _) => {}
                (Stage::Sealing(when, size), None) => {
                    if let Err(error) = self.label(key, when, size) {
                        ended.push((key, error.raw_os_error().or(Some(libc::EIO))));
                        self.end(key);
                    }
                }
                (Stage::Labelling, None) => {
                    self.writers.remove(&key);
                    ended.push((key, None));
                }
                (Stage::Abandoned, _) => self.end(key),
                (_, error) => {
                    ended.push((key, error));
                    self.end(key);
                }
            }
        }
        ended
    }

    /// Copy what was written so far to `copy`, in order, and give the tray up; return the digest so far.
    pub fn move_out(
        &mut self,
        mut file: TrayFile,
        mut copy: impl FnMut(&[u8]) -> Result<()>,
    ) -> (Option<Sha256>, Result<()>) {
        let mut copied = self.settle(&file);
        let mut at = BLOCK as u64;
        let mut buffer = self.writes.buffer();
        while copied.is_ok() && at < file.offset {
            let size = (file.offset - at).min(buffer.bytes().len() as u64) as usize;
            let from = (file.index as u64 * TRAY + at) as i64;
            let begin = buffer.bytes().as_mut_ptr().cast();
            // SAFETY: as many bytes as there is room for.
            copied = retried(|| unsafe { libc::pread(self.file.as_raw_fd(), begin, size, from) }).and_then(|read| {
                at += read as u64;
                if read == 0 { Err(broken()) } else { copy(&buffer.bytes()[..read]) }
            });
        }
        self.writes.give_back(buffer);
        if let (Ok(()), Some(last)) = (&copied, &file.buffer) {
            let (begin, end) = (if file.offset == 0 { BLOCK } else { 0 }, last.filled);
            copied = copy(&last.content()[begin..end]);
        }
        file.digest_rest();
        let digest = file.digest.take();
        self.abandon(file);
        (digest, copied)
    }

    /// Wait for the writes of a file.
    fn settle(&mut self, file: &TrayFile) -> Result<()> {
        loop {
            let Some(writer) = self.writers.get(&file.key) else { return Err(broken()) };
            if writer.under_way == 0 {
                return writer.error.map_or(Ok(()), |error| Err(Error::from_raw_os_error(error)));
            }
            // Those of others that end meanwhile are seen to by who hears of them next.
            self.unheard = self.ended(true);
            self.writes.ring();
        }
    }

    fn append(&mut self, file: &mut TrayFile, mut data: &[u8]) -> Result<()> {
        file.size += data.len() as u64;
        while !data.is_empty() {
            let Some(buffer) = &mut file.buffer else { return Err(broken()) };
            let taken = buffer.append(data);
            data = &data[taken..];
            if taken == 0 {
                self.next_buffer(file)?;
            }
        }
        Ok(())
    }

    /// Write a full buffer, and go on with another.
    fn next_buffer(&mut self, file: &mut TrayFile) -> Result<()> {
        file.digest_rest();
        let full = file.buffer.replace(self.writes.buffer());
        file.digested = 0;
        let offset = file.offset;
        file.offset += BUFFER as u64;
        full.map_or(Ok(()), |full| self.begin(file.key, file.index, full, offset, false))
    }

    fn label(&mut self, key: u64, when: u64, size: u64) -> Result<()> {
        let Some(writer) = self.writers.get_mut(&key) else { return Err(broken()) };
        writer.stage = Stage::Labelling;
        let index = writer.index;
        let mut buffer = self.writes.buffer();
        buffer.append(&label(when, size));
        self.begin(key, index, buffer, 0, true)
    }

    fn begin(&mut self, key: u64, index: usize, buffer: Buffer, offset: u64, durable: bool) -> Result<()> {
        let durable = durable && self.care.durable;
        self.writes.begin(key, self.file.as_raw_fd(), buffer, index as u64 * TRAY + offset, durable)?;
        if let Some(writer) = self.writers.get_mut(&key) {
            writer.under_way += 1;
        }
        Ok(())
    }

    /// Forget a writer that has not kept its file.
    fn end(&mut self, key: u64) {
        if let Some(writer) = self.writers.remove(&key) {
            // One whose label may have been written holds who knows what: the next start looks.
            self.states.set(writer.index, if writer.error.is_none() { FREE } else { BROKEN });
        }
    }

    fn take(&mut self) -> Option<usize> {
        let count = self.states.count();
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

/// Return the block that says what a tray holds.
fn label(when: u64, size: u64) -> [u8; BLOCK] {
    let mut label = [0; BLOCK];
    label[..8].copy_from_slice(MAGIC);
    label[8..16].copy_from_slice(&when.to_le_bytes());
    label[16..24].copy_from_slice(&size.to_le_bytes());
    let checksum = crc32fast::hash(&label[..24]);
    label[24..28].copy_from_slice(&checksum.to_le_bytes());
    label
}

fn broken() -> Error {
    Error::from_raw_os_error(libc::EIO)
}
