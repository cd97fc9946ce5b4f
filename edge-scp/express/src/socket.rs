//! The system calls of sockets, and the clocks.

use std::io::{Error, ErrorKind, IoSliceMut, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::shared::checked;

/// Have a descriptor's events reported under a number.
pub fn watch(epoll: &OwnedFd, descriptor: RawFd, events: i32, number: u64) -> Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: number };
    // SAFETY: a plain system call.
    checked(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &mut event) })?;
    Ok(())
}

/// Report a descriptor's events no more; one that is closed is forgotten already.
pub fn forget(epoll: &OwnedFd, descriptor: RawFd) {
    // SAFETY: a plain system call.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, descriptor, std::ptr::null_mut()) };
}

/// Return what happens within so many seconds, or whenever it happens.
pub fn ready<'a>(
    epoll: &OwnedFd,
    events: &'a mut [libc::epoll_event],
    seconds: Option<f64>,
) -> Result<&'a [libc::epoll_event]> {
    let milliseconds = seconds.map_or(-1, |seconds| (seconds * 1e3).ceil().min(1e9) as i32);
    // SAFETY: as many events as there is room for.
    let count = unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, milliseconds) };
    match checked(count) {
        Ok(count) => Ok(&events[..count as usize]),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(&[]),
        Err(error) => Err(error),
    }
}

/// Receive what there is, up to the buffer's size.
pub fn receive(descriptor: RawFd, buffer: &mut [u8]) -> Result<usize> {
    let (begin, size) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: as many bytes as there is room for.
    retried(|| unsafe { libc::recv(descriptor, begin, size, libc::MSG_DONTWAIT) })
}

/// Receive what there is, into one piece of memory after the other.
pub fn receive_into(descriptor: RawFd, pieces: &mut [IoSliceMut<'_>]) -> Result<usize> {
    let (begin, count) = (pieces.as_mut_ptr(), pieces.len() as i32);
    // SAFETY: IoSliceMut is an iovec, and each is valid for writing; accepted sockets do not block.
    retried(|| unsafe { libc::readv(descriptor, begin.cast(), count) })
}

/// Send what the peer takes now, and return how much that was.
pub fn send(descriptor: RawFd, data: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: bytes that are there.
    match retried(|| unsafe { libc::send(descriptor, data.as_ptr().cast(), data.len(), flags) }) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

/// Repeat a system call until no signal interrupts it.
pub fn retried(call: impl Fn() -> isize) -> Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Acknowledge at once what was received: without it a sender with Nagle's algorithm waits 40 ms at each message.
pub fn acknowledge(descriptor: RawFd) {
    let on: i32 = 1;
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_QUICKACK);
    // SAFETY: an option of the size of an int.
    unsafe { libc::setsockopt(descriptor, level, option, (&raw const on).cast(), size_of::<i32>() as u32) };
}

/// Return the monotonic clock's time in seconds.
pub fn now() -> f64 {
    let at = clock(libc::CLOCK_MONOTONIC);
    at.tv_sec as f64 + at.tv_nsec as f64 / 1e9
}

/// Return the nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let at = clock(libc::CLOCK_REALTIME);
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

fn clock(id: libc::clockid_t) -> libc::timespec {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clocks exist.
    unsafe { libc::clock_gettime(id, &mut at) };
    at
}
