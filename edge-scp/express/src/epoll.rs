//! The kernel's list of descriptors to wait for (epoll(7)).

use std::io::{ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::syscall::{checked, owned};

/// Events that one wait returns at most.
pub const EVENTS: usize = 64;
/// Readable, or closed by the peer.
pub const READABLE: i32 = libc::EPOLLIN;
/// The same, told once for each arrival rather than as long as it lasts.
pub const ARRIVALS: i32 = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
const CLOSED: i32 = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;

/// The token of a descriptor that is ready, and whether its peer has closed it.
pub struct Ready {
    pub token: u64,
    pub closed: bool,
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> Result<Self> {
        // SAFETY: epoll_create1 touches no memory of ours.
        Ok(Self(owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?))
    }

    /// Reports a descriptor's events from here on, under a token.
    pub fn add(&self, descriptor: RawFd, events: i32, token: u64) -> Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: `event` is valid for reading.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, descriptor, &mut event) })?;
        Ok(())
    }

    /// Reports a descriptor's events no more; one that was closed is gone already.
    pub fn remove(&self, descriptor: RawFd) {
        // SAFETY: the kernel ignores the event of EPOLL_CTL_DEL.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, descriptor, std::ptr::null_mut()) };
    }

    /// Waits until a descriptor is ready or the time is over, for good if it is None; nothing if a signal came.
    pub fn wait(&self, seconds: Option<f64>) -> Result<impl Iterator<Item = Ready> + use<>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let milliseconds = seconds.map_or(-1, |seconds| (seconds * 1e3).ceil().min(1e9) as i32);
        // SAFETY: `events` is valid for writing as many events as the kernel is told.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, milliseconds) };
        let count = match checked(count) {
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            count => count? as usize,
        };
        let ready = |event: libc::epoll_event| Ready { token: event.u64, closed: event.events as i32 & CLOSED != 0 };
        Ok(events.into_iter().take(count).map(ready))
    }
}
