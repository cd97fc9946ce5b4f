//! A data set on its way: P-DATA-TF by P-DATA-TF, value by value (PS3.8 §9.3.5, Annex E).
//!
//! Whatever does not continue the data set is left alone, as a PDU that begins where it begins: who serves the
//! association finds the same fault there, and answers it.

pub const P_DATA_TF: u8 = 0x04;
/// The message control header's bits (PS3.8 §E.2).
pub const COMMAND: u8 = 0x01;
pub const LAST: u8 = 0x02;
/// Of a PDU's header, and of a value's.
pub const HEADER: usize = 6;
pub const BOTH: usize = 2 * HEADER;

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// All bytes were read, and the data set goes on.
    Dry,
    /// The last fragment was read.
    Ended,
    /// Something else begins.
    Foreign,
}

/// One data set in transit.
#[derive(Clone)]
pub struct Transit {
    context_id: u8,
    max_pdu: u32,
    control: u8,
    left: u32,
    value_left: u32,
    header: [u8; BOTH],
    have: usize,
}

impl Transit {
    /// Begin after a command set, `left` bytes before the end of its PDU.
    pub fn begin(context_id: u8, max_pdu: u32, left: u32) -> Self {
        Self { context_id, max_pdu, control: 0, left, value_left: 0, header: [0; BOTH], have: 0 }
    }

    /// Read on; add the pieces of the data set to `pieces`, and return how many bytes were read.
    pub fn read<'a>(&mut self, data: &'a [u8], pieces: &mut Vec<&'a [u8]>) -> (usize, Stop) {
        let mut at = 0;
        loop {
            if self.value_left > 0 {
                let size = (self.value_left as usize).min(data.len() - at);
                if size == 0 {
                    return (at, Stop::Dry);
                }
                pieces.push(&data[at..at + size]);
                at += size;
                self.value_left -= size as u32;
                self.left -= size as u32;
            } else if self.control & LAST != 0 {
                return (at, Stop::Ended);
            } else {
                match self.header(data, &mut at) {
                    Some(true) => {}
                    Some(false) => return (at, Stop::Foreign),
                    None => return (at, Stop::Dry),
                }
            }
        }
    }

    /// Return how many bytes of the current value are still to come, and of the headers after it: none after the last.
    pub fn coming(&self) -> (usize, usize) {
        let headers = if self.left == self.value_left { BOTH } else { HEADER };
        (self.value_left as usize, if self.control & LAST == 0 { headers } else { 0 })
    }

    /// Note that so many bytes of the current value were received elsewhere.
    pub fn passed(&mut self, size: usize) {
        self.value_left -= size as u32;
        self.left -= size as u32;
    }

    /// Read headers; tell whether the data set goes on after them with at least so many bytes of a value.
    pub fn goes_on(&mut self, headers: &[u8], size: usize) -> bool {
        let mut none = Vec::new();
        self.read(headers, &mut none) == (headers.len(), Stop::Dry) && self.value_left as usize >= size
    }

    /// Return what was read but belongs to no value of the data set, as the beginning of a PDU.
    pub fn rest(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(BOTH);
        if self.left > 0 {
            rest.extend_from_slice(&[P_DATA_TF, 0]);
            rest.extend_from_slice(&self.left.to_be_bytes());
        }
        rest.extend_from_slice(&self.header[..self.have]);
        rest
    }

    /// Read the next value's header, and its PDU's if it is the first there; tell whether the data set goes on.
    fn header(&mut self, data: &[u8], at: &mut usize) -> Option<bool> {
        if self.left > 0 {
            if (self.left as usize) < HEADER {
                return Some(false);
            }
            self.collect(HEADER, data, at)?;
            return Some(self.value_begins(0, self.left));
        }
        self.collect(HEADER, data, at)?;
        let length = word(&self.header[2..]);
        if self.header[0] != P_DATA_TF || (length as usize) < HEADER || length > self.max_pdu {
            return Some(false);
        }
        self.collect(BOTH, data, at)?;
        Some(self.value_begins(HEADER, length))
    }

    fn value_begins(&mut self, at: usize, left: u32) -> bool {
        let header = &self.header[at..at + HEADER];
        let length = word(header);
        let (context_id, control) = (header[4], header[5]);
        if context_id != self.context_id || control & COMMAND != 0 || length < 2 {
            return false;
        }
        if length - 2 > left - HEADER as u32 {
            return false;
        }
        (self.control, self.value_left, self.left) = (control, length - 2, left - HEADER as u32);
        self.have = 0;
        true
    }

    fn collect(&mut self, wanted: usize, data: &[u8], at: &mut usize) -> Option<()> {
        let size = wanted.saturating_sub(self.have).min(data.len() - *at);
        self.header[self.have..self.have + size].copy_from_slice(&data[*at..*at + size]);
        self.have += size;
        *at += size;
        (self.have >= wanted).then_some(())
    }
}

/// Read a length as it is written in PDUs.
pub fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
