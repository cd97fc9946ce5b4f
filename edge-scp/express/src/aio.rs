//! Writes that go on while others are received: Linux's asynchronous input and output (io_submit(2)).
//!
//! With O_DIRECT and blocks that exist already, the kernel takes the bytes from the buffer itself, later. So a
//! buffer belongs to its write until that has ended.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;

use crate::shared::{Bell, checked};

/// What addresses, lengths and offsets of direct writes are multiples of, on any disk.
pub const BLOCK: usize = 4096;
pub const BUFFER: usize = 256 * 1024;
/// Buffers kept for later.
const SPARE: usize = 64;
/// Writes under way at once.
const MOST: usize = 1024;
const PWRITE: u16 = 1;
const HAS_BELL: u32 = 1;
const DSYNC: u32 = 2;

/// The kernel's `struct iocb`, as little-endian machines have it.
#[repr(C)]
struct Control {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    bell: u32,
}

/// The kernel's `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Event {
    data: u64,
    control: u64,
    result: i64,
    result2: i64,
}

/// Memory that the disk can read from.
pub struct Buffer {
    start: *mut u8,
    pub filled: usize,
}

// It is owned like a box.
unsafe impl Send for Buffer {}

impl Buffer {
    const LAYOUT: Layout = match Layout::from_size_align(BUFFER, BLOCK) {
        Ok(layout) => layout,
        Err(_) => panic!("no layout"),
    };

    fn new() -> Self {
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(Self::LAYOUT) };
        if start.is_null() {
            handle_alloc_error(Self::LAYOUT);
        }
        Self { start, filled: 0 }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are there, and were initialised when they were allocated.
        unsafe { std::slice::from_raw_parts_mut(self.start, BUFFER) }
    }

    /// Return what is filled.
    pub fn content(&self) -> &[u8] {
        // SAFETY: no more than there is, and initialised when it was allocated.
        unsafe { std::slice::from_raw_parts(self.start, self.filled) }
    }

    /// Return what is not filled yet.
    pub fn room(&mut self) -> &mut [u8] {
        let from = self.filled;
        &mut self.bytes()[from..]
    }

    /// Append as much as there is room for, and return how much that was.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let from = self.filled;
        let size = data.len().min(BUFFER - from);
        self.bytes()[from..from + size].copy_from_slice(&data[..size]);
        self.filled += size;
        size
    }

    /// Fill up with zeros to a whole number of blocks.
    fn pad(&mut self) {
        let (from, to) = (self.filled, self.filled.next_multiple_of(BLOCK));
        self.bytes()[from..to].fill(0);
        self.filled = to;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: what `new` allocated.
        unsafe { std::alloc::dealloc(self.start, Self::LAYOUT) };
    }
}

struct Flight {
    whose: u64,
    buffer: Buffer,
}

/// A write that has ended: whose it was, and its error.
pub type Ended = (u64, Option<i32>);

/// The writes of one process.
pub struct Writes {
    context: usize,
    bell: Bell,
    flights: HashMap<u64, Flight>,
    spare: Vec<Buffer>,
    last: u64,
}

impl Writes {
    pub fn open() -> Result<Self> {
        let mut context: usize = 0;
        // SAFETY: room for what the call returns.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, MOST, &raw mut context) } as i32)?;
        Ok(Self { context, bell: Bell::new()?, flights: HashMap::new(), spare: Vec::new(), last: 0 })
    }

    /// Return the descriptor that is readable when writes have ended.
    pub fn descriptor(&self) -> RawFd {
        self.bell.descriptor()
    }

    /// Have the descriptor readable, though no write has ended.
    pub fn ring(&self) {
        self.bell.ring();
    }

    pub fn buffer(&mut self) -> Buffer {
        self.spare.pop().unwrap_or_else(Buffer::new)
    }

    /// Keep a buffer for later.
    pub fn give_back(&mut self, mut buffer: Buffer) {
        if self.spare.len() < SPARE {
            buffer.filled = 0;
            self.spare.push(buffer);
        }
    }

    /// Begin to write a buffer; `durable` if it is to end only when all written before it is on the disk.
    pub fn begin(&mut self, whose: u64, file: RawFd, mut buffer: Buffer, offset: u64, durable: bool) -> Result<()> {
        buffer.pad();
        self.last += 1;
        let mut control = Control {
            data: self.last,
            key: 0,
            rw_flags: if durable { DSYNC } else { 0 },
            opcode: PWRITE,
            priority: 0,
            descriptor: file as u32,
            buffer: buffer.start as u64,
            bytes: buffer.filled as u64,
            offset: offset as i64,
            reserved: 0,
            flags: HAS_BELL,
            bell: self.bell.descriptor() as u32,
        };
        let mut controls = [&raw mut control];
        loop {
            // SAFETY: one control block; its buffer stays where it is until the write has ended.
            match checked(unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, controls.as_mut_ptr()) } as i32)
            {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.give_back(buffer);
                    return Err(error);
                }
            }
        }
        self.flights.insert(self.last, Flight { whose, buffer });
        Ok(())
    }

    /// Return the writes that have ended, after waiting for one if `wait`.
    pub fn ended(&mut self, wait: bool) -> Vec<Ended> {
        self.bell.hear(0);
        let mut events = [Event { data: 0, control: 0, result: 0, result2: 0 }; 64];
        let mut ended = Vec::new();
        let mut least = usize::from(wait && !self.flights.is_empty());
        loop {
            let (room, begin) = (events.len(), events.as_mut_ptr());
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let patience = if least > 0 { std::ptr::null() } else { &raw const now };
            // SAFETY: as many events as there is room for.
            let count = unsafe { libc::syscall(libc::SYS_io_getevents, self.context, least, room, begin, patience) };
            if count < 0 && Error::last_os_error().kind() == ErrorKind::Interrupted {
                continue;
            }
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                let Some(Flight { whose, buffer }) = self.flights.remove(&event.data) else { continue };
                let error = match event.result {
                    result if result == buffer.filled as i64 => None,
                    result if result < 0 => Some(-result as i32),
                    _ => Some(libc::EIO),
                };
                ended.push((whose, error));
                self.give_back(buffer);
            }
            if count < room as i64 {
                return ended;
            }
            least = 0;
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        // SAFETY: what `open` set up; it returns when no write is under way any more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
