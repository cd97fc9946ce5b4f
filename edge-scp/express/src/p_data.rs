//! A data set on its way: presentation data values out of P-DATA-TF PDUs (PS3.8 §9.3.5, Annex E).
//!
//! Whatever does not continue the data set is left unread, as a PDU that begins where it begins: Python, which then
//! serves the association, finds the same fault there and answers it.

pub const P_DATA_TF: u8 = 0x04;
/// Bits of the message control header (PS3.8 §E.2): of a command set rather than a data set, and its last fragment.
pub const COMMAND: u8 = 0x01;
pub const LAST: u8 = 0x02;
/// Bytes of a PDU's header, and of a value's.
pub const HEADER: usize = 6;
pub const BOTH_HEADERS: usize = 2 * HEADER;

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Everything was read, and the data set goes on.
    NeedMore,
    /// The last fragment was read.
    Complete,
    /// Something begins that is no part of the data set.
    Foreign,
}

/// Reads one data set, in whatever pieces it arrives.
#[derive(Clone)]
pub struct PDataReader {
    context_id: u8,
    max_pdu: u32,
    /// The message control header of the current value.
    control: u8,
    pdu_remaining: u32,
    value_remaining: u32,
    /// Headers of which a part has arrived.
    headers: [u8; BOTH_HEADERS],
    collected: usize,
}

impl PDataReader {
    /// Starts after a command set, when that many bytes of its PDU remain.
    pub fn new(context_id: u8, max_pdu: u32, pdu_remaining: u32) -> Self {
        let headers = [0; BOTH_HEADERS];
        Self { context_id, max_pdu, control: 0, pdu_remaining, value_remaining: 0, headers, collected: 0 }
    }

    /// Reads on: appends pieces of the data set to `pieces`, and returns how many bytes were read.
    pub fn read<'a>(&mut self, data: &'a [u8], pieces: &mut Vec<&'a [u8]>) -> (usize, Stop) {
        let mut at = 0;
        loop {
            if self.value_remaining > 0 {
                let size = (self.value_remaining as usize).min(data.len() - at);
                if size == 0 {
                    return (at, Stop::NeedMore);
                }
                pieces.push(&data[at..at + size]);
                at += size;
                self.skip(size);
            } else if self.control & LAST != 0 {
                return (at, Stop::Complete);
            } else {
                match self.read_headers(data, &mut at) {
                    Some(true) => {}
                    Some(false) => return (at, Stop::Foreign),
                    None => return (at, Stop::NeedMore),
                }
            }
        }
    }

    /// Returns how many bytes of the current value remain, and how many bytes of headers follow it: none after the
    /// last.
    pub fn expected(&self) -> (usize, usize) {
        let headers = if self.pdu_remaining == self.value_remaining { BOTH_HEADERS } else { HEADER };
        (self.value_remaining as usize, if self.control & LAST == 0 { headers } else { 0 })
    }

    /// Skips bytes of the current value, which were received elsewhere.
    pub fn skip(&mut self, size: usize) {
        self.value_remaining -= size as u32;
        self.pdu_remaining -= size as u32;
    }

    /// Reads headers; returns whether a value of the data set follows them that is no shorter than `size`.
    pub fn continues(&mut self, headers: &[u8], size: usize) -> bool {
        let mut no_pieces = Vec::new();
        self.read(headers, &mut no_pieces) == (headers.len(), Stop::NeedMore) && self.value_remaining as usize >= size
    }

    /// Returns what was read but belongs to no value, as the beginning of a PDU.
    pub fn unused(&self) -> Vec<u8> {
        let mut unused = Vec::with_capacity(BOTH_HEADERS);
        if self.pdu_remaining > 0 {
            unused.extend_from_slice(&[P_DATA_TF, 0]);
            unused.extend_from_slice(&self.pdu_remaining.to_be_bytes());
        }
        unused.extend_from_slice(&self.headers[..self.collected]);
        unused
    }

    /// Reads the next value's header, after its PDU's if it is the PDU's first value; returns whether it continues the
    /// data set, or None if it has not arrived.
    fn read_headers(&mut self, data: &[u8], at: &mut usize) -> Option<bool> {
        if self.pdu_remaining > 0 {
            if (self.pdu_remaining as usize) < HEADER {
                return Some(false);
            }
            self.collect(HEADER, data, at)?;
            return Some(self.start_value(0, self.pdu_remaining));
        }
        self.collect(HEADER, data, at)?;
        let length = length_at(&self.headers[2..]);
        if self.headers[0] != P_DATA_TF || (length as usize) < HEADER || length > self.max_pdu {
            return Some(false);
        }
        self.collect(BOTH_HEADERS, data, at)?;
        Some(self.start_value(HEADER, length))
    }

    fn start_value(&mut self, at: usize, pdu_remaining: u32) -> bool {
        let header = &self.headers[at..at + HEADER];
        let length = length_at(header);
        let (context_id, control) = (header[4], header[5]);
        if context_id != self.context_id || control & COMMAND != 0 || length < 2 {
            return false;
        }
        let pdu_remaining = pdu_remaining - HEADER as u32;
        if length - 2 > pdu_remaining {
            return false;
        }
        (self.control, self.value_remaining, self.pdu_remaining) = (control, length - 2, pdu_remaining);
        self.collected = 0;
        true
    }

    fn collect(&mut self, wanted: usize, data: &[u8], at: &mut usize) -> Option<()> {
        let size = wanted.saturating_sub(self.collected).min(data.len() - *at);
        self.headers[self.collected..self.collected + size].copy_from_slice(&data[*at..*at + size]);
        self.collected += size;
        *at += size;
        (self.collected >= wanted).then_some(())
    }
}

/// Reads a length as PDUs have it: four bytes, big endian.
pub fn length_at(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
