//! Random names and span ids.

use std::fmt::Write;
use std::io::Result;

use crate::syscall::checked;

/// getrandom returns no less than was asked for up to this size.
const POOL: usize = 256;
const BYTES: usize = 8;

/// Random bytes, fetched from the kernel for several instances at a time.
pub struct Random {
    pool: [u8; POOL],
    used: usize,
}

impl Random {
    pub const fn new() -> Self {
        Self { pool: [0; POOL], used: POOL }
    }

    /// Returns eight random bytes as hexadecimal digits.
    pub fn hex(&mut self) -> Result<String> {
        if self.used == POOL {
            // SAFETY: the pool is valid for writing all of its bytes.
            checked(unsafe { libc::getrandom(self.pool.as_mut_ptr().cast(), POOL, 0) } as i32)?;
            self.used = 0;
        }
        self.used += BYTES;
        Ok(hex(&self.pool[self.used - BYTES..self.used]))
    }
}

/// Formats bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
