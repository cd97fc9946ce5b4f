//! Makes sealed instances durable: those in files by the commit worker, those in slots by their own writes.

use std::collections::{HashMap, VecDeque};
use std::io::Result;
use std::os::fd::RawFd;

use crate::instance::{Refusal, SealedInstance};
use crate::spooler::Spooler;
use crate::sync_queue::{SyncQueue, SyncQueueEnd};

/// What became of a sealed instance: it is durable, unless there is a refusal.
pub struct Outcome {
    pub instance: SealedInstance,
    pub refusal: Option<Refusal>,
}

/// The sealed instances of one process that are not durable yet.
pub struct Commit {
    queue: SyncQueue,
    submitted: i64,
    /// In the order of submission, in which they are completed.
    files: VecDeque<SealedInstance>,
    /// By the keys of their slots.
    slots: HashMap<u64, SealedInstance>,
}

impl Commit {
    pub fn open(end: SyncQueueEnd) -> Result<Self> {
        let queue = SyncQueue::open(end)?;
        Ok(Self { submitted: queue.submitted(), queue, files: VecDeque::new(), slots: HashMap::new() })
    }

    pub fn queue(&self) -> &SyncQueue {
        &self.queue
    }

    /// Returns the descriptor that is readable when files have been completed.
    pub fn descriptor(&self) -> RawFd {
        self.queue.replies.descriptor()
    }

    /// Takes an instance; the commit worker is told of files when `flush` is called.
    pub fn add(&mut self, instance: SealedInstance) {
        match instance.slot {
            Some(key) => {
                self.slots.insert(key, instance);
            }
            None => {
                self.files.push_back(instance);
                self.submitted += 1;
            }
        }
    }

    /// Submits the files that were added since, all at once.
    pub fn flush(&self) {
        if self.queue.submitted() != self.submitted {
            self.queue.submit(self.submitted);
        }
    }

    /// Returns the outcomes of files since the last call. One that was begun in another epoch is not trusted.
    pub fn completed_files(&mut self) -> Vec<Outcome> {
        self.queue.replies.clear();
        let completed = self.queue.completed();
        let waiting = (self.submitted - completed.files).max(0) as usize;
        let count = self.files.len().saturating_sub(waiting);
        let outcome = |instance: SealedInstance| {
            let refusal = (instance.epoch != completed.epoch).then_some(Refusal::NotSynced);
            Outcome { instance, refusal }
        };
        self.files.drain(..count).map(outcome).collect()
    }

    /// Returns the outcomes of slots since the last call; with `wait`, waits for a write if any is under way.
    pub fn completed_slots(&mut self, spooler: &mut Spooler, wait: bool) -> Vec<Outcome> {
        let completions = spooler.completed_slots(wait).into_iter();
        let outcome =
            |(instance, error): (SealedInstance, Option<i32>)| Outcome { instance, refusal: error.map(Refusal::Disk) };
        completions.filter_map(|each| Some((self.slots.remove(&each.owner)?, each.error))).map(outcome).collect()
    }

    pub fn has_slots(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Waits until files may have been completed; returns false if none waits, or nothing was heard in time.
    pub fn wait_for_files(&self, milliseconds: i32) -> bool {
        !self.files.is_empty() && self.queue.replies.wait(milliseconds)
    }
}
