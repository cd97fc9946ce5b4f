//! Memory for direct writes: aligned, and of one size.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// On any disk, addresses, lengths and offsets of direct writes may be multiples of this.
pub const BLOCK: usize = 4096;
pub const BUFFER: usize = 256 * 1024;

/// A buffer from which the kernel can write to the disk without copying; initialised throughout.
pub struct Buffer {
    start: *mut u8,
    pub filled: usize,
}

// SAFETY: the buffer owns its memory alone, as a Box would.
unsafe impl Send for Buffer {}

impl Buffer {
    const LAYOUT: Layout = match Layout::from_size_align(BUFFER, BLOCK) {
        Ok(layout) => layout,
        Err(_) => panic!("BLOCK is a power of two"),
    };

    pub fn new() -> Self {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(Self::LAYOUT) };
        if start.is_null() {
            handle_alloc_error(Self::LAYOUT);
        }
        Self { start, filled: 0 }
    }

    /// Returns where it begins, for the kernel.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Returns all of it, filled or not.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `new` allocated and initialised these bytes, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start, BUFFER) }
    }

    /// Returns the part that is filled.
    pub fn content(&self) -> &[u8] {
        let filled = self.filled.min(BUFFER);
        // SAFETY: `new` allocated and initialised these bytes, of which there are no more than BUFFER.
        unsafe { std::slice::from_raw_parts(self.start, filled) }
    }

    /// Returns the part that is not filled yet.
    pub fn spare(&mut self) -> &mut [u8] {
        let from = self.filled;
        &mut self.bytes()[from..]
    }

    /// Appends as much as fits; returns how many bytes that was.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let size = data.len().min(BUFFER - self.filled);
        self.spare()[..size].copy_from_slice(&data[..size]);
        self.filled += size;
        size
    }

    /// Fills up with zeros to a whole number of blocks.
    pub fn pad(&mut self) {
        let (from, to) = (self.filled, self.filled.next_multiple_of(BLOCK));
        self.bytes()[from..to].fill(0);
        self.filled = to;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `new` allocated it, with this layout.
        unsafe { dealloc(self.start, Self::LAYOUT) };
    }
}
