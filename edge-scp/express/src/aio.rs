//! Linux's asynchronous input and output (io_submit(2)): the disk writes while the next bytes are received.
//!
//! With O_DIRECT and blocks that are allocated already, the kernel reads from the buffer itself, later. So a write
//! owns its buffer until it has completed.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;

use crate::buffer::Buffer;
use crate::eventfd::EventFd;
use crate::syscall::checked;

/// Writes under way at most.
const MAX_WRITES: usize = 1024;
/// Unused buffers that are kept rather than freed.
const MAX_SPARE: usize = 64;
/// From the kernel's linux/aio_abi.h and linux/fs.h.
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_FLAG_RESFD: u32 = 1;
const RWF_DSYNC: u32 = 2;

/// The kernel's `struct iocb`, as little-endian machines lay it out.
#[repr(C)]
struct ControlBlock {
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
    eventfd: u32,
}

/// The kernel's `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Event {
    data: u64,
    control_block: u64,
    result: i64,
    result2: i64,
}

struct Write {
    owner: u64,
    buffer: Buffer,
}

/// A write that has completed: the owner it was started for, and the error (errno), if any.
pub struct Completion {
    pub owner: u64,
    pub error: Option<i32>,
}

/// All asynchronous writes of one process.
pub struct AsyncWrites {
    context: usize,
    completed: EventFd,
    under_way: HashMap<u64, Write>,
    spare: Vec<Buffer>,
    last_id: u64,
}

impl AsyncWrites {
    pub fn open() -> Result<Self> {
        let mut context: usize = 0;
        // SAFETY: `context` is valid for the handle that io_setup writes.
        checked(unsafe { libc::syscall(libc::SYS_io_setup, MAX_WRITES, &raw mut context) } as i32)?;
        let completed = EventFd::new()?;
        Ok(Self { context, completed, under_way: HashMap::new(), spare: Vec::new(), last_id: 0 })
    }

    /// Returns the descriptor that is readable when writes have completed.
    pub fn descriptor(&self) -> RawFd {
        self.completed.descriptor()
    }

    /// Makes the descriptor readable, though no write has completed.
    pub fn notify(&self) {
        self.completed.notify();
    }

    /// Returns an empty buffer.
    pub fn buffer(&mut self) -> Buffer {
        self.spare.pop().unwrap_or_else(Buffer::new)
    }

    /// Takes back a buffer that is not needed any more.
    pub fn recycle(&mut self, mut buffer: Buffer) {
        if self.spare.len() < MAX_SPARE {
            buffer.filled = 0;
            self.spare.push(buffer);
        }
    }

    /// Starts a write; a `durable` one completes when it, and what the file's disk cache held before, is on the disk.
    pub fn start(&mut self, owner: u64, file: RawFd, mut buffer: Buffer, offset: u64, durable: bool) -> Result<()> {
        buffer.pad();
        self.last_id += 1;
        let mut block = ControlBlock {
            data: self.last_id,
            key: 0,
            rw_flags: if durable { RWF_DSYNC } else { 0 },
            opcode: IOCB_CMD_PWRITE,
            priority: 0,
            descriptor: file as u32,
            buffer: buffer.address(),
            bytes: buffer.filled as u64,
            offset: offset as i64,
            reserved: 0,
            flags: IOCB_FLAG_RESFD,
            eventfd: self.completed.descriptor() as u32,
        };
        let mut blocks = [&raw mut block];
        loop {
            // SAFETY: one valid control block, which the kernel copies; the buffer it names is owned by `under_way`
            // until the write has completed.
            match checked(unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, blocks.as_mut_ptr()) } as i32) {
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.recycle(buffer);
                    return Err(error);
                }
            }
        }
        self.under_way.insert(self.last_id, Write { owner, buffer });
        Ok(())
    }

    /// Returns the writes that have completed; with `wait`, waits for one if any is under way.
    pub fn completed(&mut self, wait: bool) -> Vec<Completion> {
        self.completed.clear();
        let mut events = [Event { data: 0, control_block: 0, result: 0, result2: 0 }; 64];
        let mut completions = Vec::new();
        let mut at_least = usize::from(wait && !self.under_way.is_empty());
        loop {
            let (room, start) = (events.len(), events.as_mut_ptr());
            let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            let timeout = if at_least > 0 { std::ptr::null() } else { &raw const at_once };
            // SAFETY: `events` is valid for writing `room` events, and the timeout is null or valid.
            let count = unsafe { libc::syscall(libc::SYS_io_getevents, self.context, at_least, room, start, timeout) };
            if count < 0 && Error::last_os_error().kind() == ErrorKind::Interrupted {
                continue;
            }
            for event in &events[..usize::try_from(count).unwrap_or(0)] {
                let Some(Write { owner, buffer }) = self.under_way.remove(&event.data) else { continue };
                let error = match event.result {
                    result if result == buffer.filled as i64 => None,
                    result if result < 0 => Some(-result as i32),
                    _ => Some(libc::EIO),
                };
                completions.push(Completion { owner, error });
                self.recycle(buffer);
            }
            if count < room as i64 {
                return completions;
            }
            at_least = 0;
        }
    }
}

impl Drop for AsyncWrites {
    fn drop(&mut self) {
        // SAFETY: `open` set the context up. The call returns when no write is under way, so buffers may be freed.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
