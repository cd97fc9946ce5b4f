//! A counter in the kernel by which one process or thread wakes another (eventfd(2)).

use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::syscall::{duplicate, owned};

/// A non-blocking eventfd: readable from `notify` until `clear`.
pub struct EventFd(OwnedFd);

impl EventFd {
    pub fn new() -> Result<Self> {
        // SAFETY: eventfd touches no memory of ours.
        Ok(Self(owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?))
    }

    /// Opens an eventfd that other processes notify or wait for as well.
    pub fn shared(descriptor: RawFd) -> Result<Self> {
        Ok(Self(duplicate(descriptor)?))
    }

    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Makes it readable.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is valid for reading its eight bytes; the write fails only at a count of 2^64 - 1.
        unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable again; returns whether it had been notified.
    pub fn clear(&self) -> bool {
        let mut count = [0u8; 8];
        // SAFETY: `count` is valid for writing the eight bytes that an eventfd returns.
        unsafe { libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) == count.len() as isize }
    }

    /// Waits for a notification and clears it; returns false if none came in time.
    pub fn wait(&self, milliseconds: i32) -> bool {
        let mut polled = libc::pollfd { fd: self.descriptor(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `polled` is one valid pollfd.
        unsafe { libc::poll(&mut polled, 1, milliseconds) };
        self.clear()
    }
}
