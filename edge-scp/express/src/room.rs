//! The room that instances take in the spool: one receiver's account in the ledger, as `edge_scp.spool.capacity` has it.

use crate::shared::Page;

/// Says how many bytes may be taken before it is asked again, or why not as many as these.
pub type Allowance = Box<dyn Fn(u64) -> Result<u64, String> + Send>;

pub struct Room {
    ledger: Page,
    refusing: usize,
    taken: usize,
    allowance: u64,
    ask: Allowance,
}

impl Room {
    /// Open the account; `refusing` and `taken` are words of the ledger.
    pub fn open(ledger: Page, refusing: usize, taken: usize, ask: Allowance) -> Self {
        Self { ledger, refusing, taken, allowance: 0, ask }
    }

    /// Take the first bytes of an instance.
    pub fn admit(&mut self, size: u64, taken: &mut u64) -> Result<(), String> {
        if self.ledger.get(self.refusing) != 0 {
            self.allowance = 0;
        }
        self.take(size, taken)
    }

    /// Count bytes about to be written, unless there is no room for them; `taken` are the instance's so far.
    pub fn take(&mut self, size: u64, taken: &mut u64) -> Result<(), String> {
        if size > self.allowance {
            self.allowance = (self.ask)(size)?;
        }
        self.allowance = self.allowance.saturating_sub(size);
        self.ledger.add(self.taken, size as i64);
        *taken += size;
        Ok(())
    }

    /// Give back the bytes of what is not kept.
    pub fn give_back(&mut self, size: u64) {
        self.ledger.add(self.taken, -(size as i64));
    }
}
