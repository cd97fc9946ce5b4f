//! The queue by which a receiver asks the commit worker to make its files durable (`edge_scp.spool.sync_queue`).
//!
//! It holds counts, not entries. The receiver counts the files it has submitted; the commit worker counts those it
//! has completed, always in the order of submission. An eventfd in each direction tells the other side to look.

use std::io::Result;
use std::os::fd::RawFd;

use crate::eventfd::EventFd;
use crate::shared_memory::SharedWords;

/// The epoch is kept in the low bits of the word that counts completed files, so both change in one write.
const EPOCH_BITS: u32 = 16;

/// Where a receiver's end of the queue is: the page, its two words there, and the two eventfds.
#[derive(Clone, Copy)]
#[cfg_attr(feature = "python", derive(pyo3::FromPyObject))]
pub struct SyncQueueEnd {
    pub page: RawFd,
    pub submitted: usize,
    pub completed: usize,
    pub requests: RawFd,
    pub replies: RawFd,
}

/// The commit worker's answer: how many files it has completed, and the epoch, which changes when a sync fails.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed {
    pub files: i64,
    pub epoch: i64,
}

/// A receiver's end of the queue.
pub struct SyncQueue {
    page: SharedWords,
    submitted: usize,
    completed: usize,
    requests: EventFd,
    /// Notified by the commit worker when files are completed.
    pub replies: EventFd,
}

impl SyncQueue {
    pub fn open(end: SyncQueueEnd) -> Result<Self> {
        Ok(Self {
            page: SharedWords::open(end.page)?,
            submitted: end.submitted,
            completed: end.completed,
            requests: EventFd::shared(end.requests)?,
            replies: EventFd::shared(end.replies)?,
        })
    }

    /// Returns how many files have been submitted since the edge started.
    pub fn submitted(&self) -> i64 {
        self.page.get(self.submitted)
    }

    /// Submits files, of which there are now this many in all, and notifies the commit worker.
    pub fn submit(&self, files: i64) {
        self.page.set(self.submitted, files);
        self.requests.notify();
    }

    /// Returns how far the commit worker has come.
    pub fn completed(&self) -> Completed {
        let word = self.page.get(self.completed);
        Completed { files: word >> EPOCH_BITS, epoch: word & ((1 << EPOCH_BITS) - 1) }
    }
}
