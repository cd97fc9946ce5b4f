//! Memory that the edge's processes share, mapped from a descriptor that they inherit.
//!
//! No lock guards it: each word or byte has one writer at a time, and machines write either as a whole.

use std::io::{Error, Result};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use crate::syscall::checked;

const WORD: usize = size_of::<AtomicI64>();

/// All of what is behind a descriptor, in memory until this is dropped.
struct Mapping {
    start: *mut libc::c_void,
    size: usize,
}

// SAFETY: a mapping belongs to no thread, and is reached through atomics only.
unsafe impl Send for Mapping {}

impl Mapping {
    fn open(descriptor: RawFd) -> Result<Self> {
        // SAFETY: all zeros is a valid stat, which fstat overwrites.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` is valid for writing.
        checked(unsafe { libc::fstat(descriptor, &mut stat) })?;
        let size = stat.st_size as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses the address, so nothing that is mapped already is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok(Self { start, size })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `open` mapped these bytes, and no reference to them outlives the mapping.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

/// Shared counters: a page of signed 64-bit words.
pub struct SharedWords(Mapping);

impl SharedWords {
    pub fn open(descriptor: RawFd) -> Result<Self> {
        Ok(Self(Mapping::open(descriptor)?))
    }

    pub fn get(&self, index: usize) -> i64 {
        self.word(index).load(Ordering::Acquire)
    }

    pub fn set(&self, index: usize, value: i64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Adds to a word that no other process writes.
    pub fn add(&self, index: usize, value: i64) {
        self.set(index, self.get(index) + value);
    }

    fn word(&self, index: usize) -> &AtomicI64 {
        assert!(index < self.0.size / WORD, "there is no shared word {index}");
        // SAFETY: the index is within the mapping, whose start is aligned as pages are.
        unsafe { &*self.0.start.cast::<AtomicI64>().add(index) }
    }
}

/// Shared states: one byte for each of many things.
pub struct SharedBytes(Mapping);

impl SharedBytes {
    pub fn open(descriptor: RawFd) -> Result<Self> {
        Ok(Self(Mapping::open(descriptor)?))
    }

    pub fn len(&self) -> usize {
        self.0.size
    }

    pub fn get(&self, index: usize) -> u8 {
        self.byte(index).load(Ordering::Acquire)
    }

    pub fn set(&self, index: usize, state: u8) {
        self.byte(index).store(state, Ordering::Release);
    }

    fn byte(&self, index: usize) -> &AtomicU8 {
        assert!(index < self.0.size, "there is no shared byte {index}");
        // SAFETY: the index is within the mapping.
        unsafe { &*self.0.start.cast::<AtomicU8>().add(index) }
    }
}
