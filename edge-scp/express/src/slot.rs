//! One slot: a place of 1 MiB for one instance, in a file whose blocks are allocated already (`edge_scp.spool.slots`).
//!
//! A slot begins with a header of one block. The spool record follows, as a file of its own would hold it. The header
//! is written when the record is on the disk, and a slot whose header is zeros is empty.

use sha2::{Digest, Sha256};

use crate::buffer::{BLOCK, BUFFER, Buffer};

pub const SLOT: u64 = 1024 * 1024;
/// The header's first bytes; slots were called slots when the format was made.
const MAGIC: &[u8; 8] = b"BUCKYTR1";
/// What the record has beside the data set: the file meta information and the footer.
const RESERVED: u64 = 8 * 1024;
/// The longest data set that is put in a slot.
pub const MAX_INSTANCE: u64 = SLOT - BLOCK as u64 - RESERVED;

/// Returns whether an instance of a size fits in a slot.
pub fn fits(size: u64) -> bool {
    size <= MAX_INSTANCE
}

/// Returns how many more bytes of an instance fit in its slot, after those there already.
pub fn remaining(size: u64) -> usize {
    MAX_INSTANCE.saturating_sub(size) as usize
}

/// Returns the block that says what a slot holds: a record of a size, received at a time (in ns since 1970).
pub fn header(received_ns: u64, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&received_ns.to_le_bytes());
    header[16..24].copy_from_slice(&size.to_le_bytes());
    let checksum = crc32fast::hash(&header[..24]);
    header[24..28].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// A slot that is being filled.
pub struct SlotWriter {
    /// Identifies its writes among those of all slots.
    pub(crate) key: u64,
    pub index: usize,
    /// What is not being written yet; None once the slot is sealed.
    pub(crate) buffer: Option<Buffer>,
    /// Where in the slot the buffer goes.
    pub(crate) offset: u64,
    digest: Sha256,
    /// How much of the buffer the digest has seen.
    digested: usize,
    pub data_set_offset: u64,
    /// Bytes of the record so far.
    pub size: u64,
    /// The bytes taken for it from the spool's capacity.
    pub taken: u64,
}

impl SlotWriter {
    /// Starts a record with a DICOM file's header, in an empty buffer.
    pub fn new(key: u64, index: usize, mut buffer: Buffer, file_header: &[u8]) -> Self {
        // Room for the slot's header, should the whole record fit in this buffer.
        buffer.bytes()[..BLOCK].fill(0);
        buffer.filled = BLOCK;
        buffer.append(file_header);
        let data_set_offset = file_header.len() as u64;
        Self {
            key,
            index,
            offset: 0,
            digest: Sha256::new(),
            digested: buffer.filled,
            buffer: Some(buffer),
            data_set_offset,
            size: data_set_offset,
            taken: 0,
        }
    }

    /// Returns the SHA-256 of the data set, all of which has been written.
    pub fn sha256(&mut self) -> [u8; 32] {
        self.take_digest().finalize().into()
    }

    /// Returns the digest of the data set so far, to be continued elsewhere.
    pub fn take_digest(&mut self) -> Sha256 {
        self.update_digest();
        std::mem::take(&mut self.digest)
    }

    /// Returns the memory into which the next bytes of the data set can be received.
    pub fn spare(&mut self) -> Option<&mut [u8]> {
        let remaining = remaining(self.size);
        let spare = self.buffer.as_mut()?.spare();
        let size = spare.len().min(remaining);
        Some(&mut spare[..size])
    }

    /// Counts bytes that were received into that memory.
    pub fn filled(&mut self, size: usize) {
        let Some(buffer) = &mut self.buffer else { return };
        buffer.filled += size;
        self.size += size as u64;
    }

    /// Digests the whole buffer, which is done when it is full or the last, not piece by piece: the socket is empty
    /// sooner, and the peer goes on sending meanwhile.
    pub(crate) fn update_digest(&mut self) {
        let Some(buffer) = &self.buffer else { return };
        self.digest.update(&buffer.content()[self.digested..]);
        self.digested = buffer.filled;
    }

    /// Continues in another buffer; returns the full one and where in the slot it goes.
    pub(crate) fn replace_buffer(&mut self, empty: Buffer) -> (Option<Buffer>, u64) {
        self.update_digest();
        self.digested = 0;
        let (full, offset) = (self.buffer.replace(empty), self.offset);
        self.offset += BUFFER as u64;
        (full, offset)
    }
}
