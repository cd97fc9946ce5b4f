//! The bytes that a receiver may take of the spool's capacity (`edge_scp.spool.capacity`).

use crate::shared_memory::SharedWords;

/// Returns how many bytes may be taken before it is asked again, or why not even the given number.
pub type Allowance = Box<dyn Fn(u64) -> Result<u64, String> + Send>;

/// One receiver's account in the shared counters.
pub struct Capacity {
    counters: SharedWords,
    refusing: usize,
    taken: usize,
    allowance: u64,
    ask: Allowance,
}

impl Capacity {
    /// Opens the account; `refusing` and `taken` are the indices of two shared words.
    pub fn new(counters: SharedWords, refusing: usize, taken: usize, ask: Allowance) -> Self {
        Self { counters, refusing, taken, allowance: 0, ask }
    }

    /// Takes the first bytes of an instance: while the spool refuses, no allowance from before counts.
    pub fn admit(&mut self, size: u64, taken: &mut u64) -> Result<(), String> {
        if self.counters.get(self.refusing) != 0 {
            self.allowance = 0;
        }
        self.take(size, taken)
    }

    /// Takes bytes that are about to be written, unless there is no capacity; adds them to the instance's `taken`.
    pub fn take(&mut self, size: u64, taken: &mut u64) -> Result<(), String> {
        if size > self.allowance {
            self.allowance = (self.ask)(size)?;
        }
        self.allowance = self.allowance.saturating_sub(size);
        self.counters.add(self.taken, size as i64);
        *taken += size;
        Ok(())
    }

    /// Gives back the bytes of an instance that is not stored.
    pub fn give_back(&mut self, size: u64) {
        self.counters.add(self.taken, -(size as i64));
    }
}
