//! The system calls of connected sockets, none of which blocks.

use std::io::{ErrorKind, IoSliceMut, Result};
use std::os::fd::RawFd;

use crate::syscall::retried;

/// Receives what has arrived, up to the buffer's size.
pub fn receive(descriptor: RawFd, buffer: &mut [u8]) -> Result<usize> {
    let (start, size) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the buffer is valid for writing `size` bytes.
    retried(|| unsafe { libc::recv(descriptor, start, size, libc::MSG_DONTWAIT) })
}

/// Receives what has arrived, into one piece of memory after another.
pub fn receive_into(descriptor: RawFd, pieces: &mut [IoSliceMut<'_>]) -> Result<usize> {
    let (start, count) = (pieces.as_mut_ptr(), pieces.len() as i32);
    // SAFETY: IoSliceMut has the layout of an iovec, and each is valid for writing; accepted sockets do not block.
    retried(|| unsafe { libc::readv(descriptor, start.cast(), count) })
}

/// Sends as much as the peer takes now; returns how many bytes that was.
pub fn send(descriptor: RawFd, data: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `data` is valid for reading all of its bytes.
    match retried(|| unsafe { libc::send(descriptor, data.as_ptr().cast(), data.len(), flags) }) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// Acknowledges at once what was received: otherwise a sender with Nagle's algorithm waits 40 ms at each message.
pub fn acknowledge(descriptor: RawFd) {
    let on: i32 = 1;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_QUICKACK);
    // SAFETY: the option's value is an int, which `on` is.
    unsafe { libc::setsockopt(descriptor, level, option, (&raw const on).cast(), size_of::<i32>() as u32) };
}
