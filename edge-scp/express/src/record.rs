//! A spool record's footer, as `edge_scp.spool.record` reads it, and what names are made of.

use std::fmt::Write;

use crate::shared::checked;

const MAGIC: &[u8; 8] = b"BUCKYSP1";

/// What the lane knows of one instance; `caller` is the part of the footer's JSON that an association's have in common.
pub struct Record<'a> {
    pub study: &'a str,
    pub series: &'a str,
    pub sop_instance: &'a str,
    pub sop_class: &'a str,
    pub transfer_syntax: &'a str,
    pub sha256: &'a str,
    pub object_size: u64,
    pub data_set_offset: u64,
    pub caller: &'a str,
    pub traceparent: &'a str,
}

impl Record<'_> {
    /// Return the footer and trailer that go after the DICOM file.
    pub fn footer(&self, now_ns: u64) -> Vec<u8> {
        let Record { study, series, sop_instance, sop_class, transfer_syntax, sha256, .. } = self;
        let Record { object_size, data_set_offset, caller, traceparent, .. } = self;
        let received_at = timestamp(now_ns);
        // No UID, digest or trace holds a character that JSON would have to escape.
        let text = format!(
            "{{\"study_instance_uid\":\"{study}\",\"series_instance_uid\":\"{series}\",\
             \"sop_instance_uid\":\"{sop_instance}\",\"sop_class_uid\":\"{sop_class}\",\
             \"transfer_syntax_uid\":\"{transfer_syntax}\",\"sha256\":\"{sha256}\",\
             \"object_size\":{object_size},\"data_set_offset\":{data_set_offset},{caller},\
             \"received_at\":\"{received_at}\",\"traceparent\":\"{traceparent}\"}}"
        );
        let mut footer = text.into_bytes();
        let (length, checksum) = (footer.len() as u32, crc32fast::hash(&footer));
        footer.extend_from_slice(&length.to_le_bytes());
        footer.extend_from_slice(&checksum.to_le_bytes());
        footer.extend_from_slice(MAGIC);
        footer
    }
}

/// Return a time as ISO 8601 has it, in UTC and to the microsecond.
pub fn timestamp(now_ns: u64) -> String {
    let (seconds, micros) = ((now_ns / 1_000_000_000) as libc::time_t, now_ns / 1000 % 1_000_000);
    // SAFETY: gmtime_r fills in what it is given.
    let at = unsafe {
        let mut at: libc::tm = std::mem::zeroed();
        libc::gmtime_r(&seconds, &mut at);
        at
    };
    let (year, month, day) = (at.tm_year + 1900, at.tm_mon + 1, at.tm_mday);
    let (hour, minute, second) = (at.tm_hour, at.tm_min, at.tm_sec);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

/// Return bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Random bytes, fetched from the kernel for many instances at a time.
pub struct Random {
    pool: [u8; 256],
    used: usize,
}

impl Random {
    pub const fn new() -> Self {
        Self { pool: [0; 256], used: 256 }
    }

    /// Return eight random bytes, as hexadecimal digits.
    pub fn hex(&mut self) -> std::io::Result<String> {
        if self.used == self.pool.len() {
            // SAFETY: as many bytes as there is room for; up to 256 come whole.
            checked(unsafe { libc::getrandom(self.pool.as_mut_ptr().cast(), self.pool.len(), 0) } as i32)?;
            self.used = 0;
        }
        self.used += 8;
        Ok(hex(&self.pool[self.used - 8..self.used]))
    }
}
