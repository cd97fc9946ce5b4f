//! The pages that the edge's processes share: the spool's ledger and the commit board.
//!
//! `edge_scp.spool.capacity` and `edge_scp.spool.sync_queue` say what is on them.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

/// A shared page; a word is eight aligned bytes.
pub struct Page {
    words: *const AtomicI64,
    count: usize,
}

// The words are atomic, and the mapping lasts as long as the page.
unsafe impl Send for Page {}
unsafe impl Sync for Page {}

impl Page {
    /// Map the words behind a descriptor.
    pub fn open(descriptor: RawFd) -> Result<Self> {
        let (words, size) = mapped(descriptor)?;
        Ok(Self { words: words.cast(), count: size / 8 })
    }

    pub fn get(&self, word: usize) -> i64 {
        self.word(word).load(Ordering::Acquire)
    }

    pub fn set(&self, word: usize, value: i64) {
        self.word(word).store(value, Ordering::Release);
    }

    /// Add to a word that this process alone writes.
    pub fn add(&self, word: usize, value: i64) {
        self.set(word, self.get(word) + value);
    }

    fn word(&self, word: usize) -> &AtomicI64 {
        assert!(word < self.count, "no such word on the page");
        // SAFETY: within the mapping, and aligned as pages are.
        unsafe { &*self.words.add(word) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: what `open` mapped.
        unsafe { libc::munmap(self.words.cast_mut().cast(), self.count * 8) };
    }
}

/// A page of bytes that several processes share, and that stand for the states of things.
pub struct States {
    bytes: *const AtomicU8,
    count: usize,
}

// The bytes are atomic, and the mapping lasts as long as the page.
unsafe impl Send for States {}

impl States {
    /// Map the bytes behind a descriptor.
    pub fn open(descriptor: RawFd) -> Result<Self> {
        let (bytes, count) = mapped(descriptor)?;
        Ok(Self { bytes: bytes.cast(), count })
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn get(&self, index: usize) -> u8 {
        self.byte(index).load(Ordering::Acquire)
    }

    pub fn set(&self, index: usize, state: u8) {
        self.byte(index).store(state, Ordering::Release);
    }

    fn byte(&self, index: usize) -> &AtomicU8 {
        assert!(index < self.count, "no such state on the page");
        // SAFETY: within the mapping.
        unsafe { &*self.bytes.add(index) }
    }
}

impl Drop for States {
    fn drop(&mut self) {
        // SAFETY: what `open` mapped.
        unsafe { libc::munmap(self.bytes.cast_mut().cast(), self.count) };
    }
}

/// Map all of what is behind a descriptor, and return where it begins and its bytes.
fn mapped(descriptor: RawFd) -> Result<(*const libc::c_void, usize)> {
    // SAFETY: plain system calls, whose results are checked; who asked unmaps.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        checked(libc::fstat(descriptor, &mut stat))?;
        let size = stat.st_size as usize;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let begin = libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, descriptor, 0);
        if begin == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        Ok((begin, size))
    }
}

/// Return a descriptor of its own for what is open as another.
pub fn duplicate(descriptor: RawFd) -> Result<OwnedFd> {
    // SAFETY: a plain system call, whose descriptor is owned from here on.
    Ok(unsafe { OwnedFd::from_raw_fd(checked(libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0))?) })
}

/// Where the lane asks for files to be made durable, and is answered.
pub struct Board {
    page: Page,
    asked: usize,
    dealt: usize,
    asking: Bell,
    pub answering: Bell,
}

/// The epoch is the low part of the word that says how many files were dealt with.
const EPOCH_BITS: u32 = 16;

impl Board {
    /// Open the board; `asked` and `dealt` are the lane's words, `asking` and `answering` the bells.
    pub fn open(page: RawFd, asked: usize, dealt: usize, asking: RawFd, answering: RawFd) -> Result<Self> {
        Ok(Self { page: Page::open(page)?, asked, dealt, asking: Bell::of(asking)?, answering: Bell::of(answering)? })
    }

    /// Return how many files have been asked for.
    pub fn asked(&self) -> i64 {
        self.page.get(self.asked)
    }

    /// Ask for so many files in all.
    pub fn ask(&self, files: i64) {
        self.page.set(self.asked, files);
    }

    /// Tell the committer that there are questions.
    pub fn ring(&self) {
        self.asking.ring();
    }

    /// Return how many files were dealt with, and the epoch.
    pub fn dealt(&self) -> (i64, i64) {
        let word = self.page.get(self.dealt);
        (word >> EPOCH_BITS, word & ((1 << EPOCH_BITS) - 1))
    }
}

/// An eventfd that does not block.
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> Result<Self> {
        // SAFETY: a plain system call, whose descriptor is owned from here on.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(checked(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?) }))
    }

    /// Return a bell that another process may ring or hear too.
    pub fn of(descriptor: RawFd) -> Result<Self> {
        Ok(Self(duplicate(descriptor)?))
    }

    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes, which an eventfd takes until it has counted 2^64.
        unsafe { libc::write(self.descriptor(), one.as_ptr().cast(), one.len()) };
    }

    /// Silence it, after waiting for it so long; tell whether it had rung.
    pub fn hear(&self, milliseconds: i32) -> bool {
        let mut bell = libc::pollfd { fd: self.descriptor(), events: libc::POLLIN, revents: 0 };
        let mut count = [0u8; 8];
        // SAFETY: one pollfd, and room for the eight bytes that an eventfd gives.
        unsafe {
            if milliseconds > 0 {
                libc::poll(&mut bell, 1, milliseconds);
            }
            libc::read(self.descriptor(), count.as_mut_ptr().cast(), count.len()) == count.len() as isize
        }
    }
}

/// Return a system call's result, or its error.
pub fn checked(result: i32) -> Result<i32> {
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(result)
}
