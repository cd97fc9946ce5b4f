//! What the edge's other processes give a receiver: shared pages, a spool folder, a commit worker.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::capacity::Capacity;
use crate::eventfd::EventFd;
use crate::file::ReadyFolder;
use crate::shared_memory::SharedWords;
use crate::slot::SLOT;
use crate::slots::{FREE, SlotShare};
use crate::spooler::Spooler;
use crate::sync_queue::SyncQueueEnd;

/// Words of the counters.
pub const REFUSING: usize = 0;
pub const TAKEN: usize = 1;
/// Words of the queue's page.
pub const SUBMITTED: usize = 1;
pub const COMPLETED: usize = 2;
pub const OWNER: u8 = 3;

/// Returns the descriptor of new shared memory.
pub fn shared_memory(size: usize) -> OwnedFd {
    // SAFETY: the name ends with a zero byte, and the new descriptor is nobody else's.
    let page = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC)) };
    // SAFETY: ftruncate touches no memory of ours.
    assert_eq!(unsafe { libc::ftruncate(page.as_raw_fd(), size as i64) }, 0);
    page
}

/// A folder that is removed with all it holds.
pub struct Folder {
    pub path: PathBuf,
    open: fs::File,
}

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("express-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        let open = fs::File::open(&path).unwrap();
        Self { path, open }
    }

    pub fn ready(&self) -> ReadyFolder {
        ReadyFolder(self.open.as_raw_fd())
    }

    /// Returns the contents of its files, in the order of their names.
    pub fn files(&self) -> Vec<Vec<u8>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Slots in a file, beside their states.
pub struct SlotFile {
    file: fs::File,
    page: OwnedFd,
    pub states: crate::shared_memory::SharedBytes,
}

impl SlotFile {
    pub fn new(folder: &Path, count: usize) -> Self {
        let path = folder.join("slots");
        let file = fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.set_len(count as u64 * SLOT).unwrap();
        fs::remove_file(path).unwrap();
        // There is no shared memory of no size.
        let page = shared_memory(count.max(1));
        let states = crate::shared_memory::SharedBytes::open(page.as_raw_fd()).unwrap();
        (0..count).for_each(|index| states.set(index, FREE));
        Self { file, page, states }
    }

    pub fn share(&self, first: usize, step: usize) -> SlotShare {
        let (file, states) = (self.file.as_raw_fd(), self.page.as_raw_fd());
        SlotShare { file, states, first, step, owner: OWNER }
    }

    /// Returns what a slot holds.
    pub fn content(&self, index: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut content = vec![0; SLOT as usize];
        self.file.read_exact_at(&mut content, index as u64 * SLOT).unwrap();
        content
    }
}

/// The shared counters, and a capacity in bytes.
pub struct Counters {
    page: OwnedFd,
    pub words: SharedWords,
}

impl Counters {
    pub fn new() -> Self {
        let page = shared_memory(16);
        let words = SharedWords::open(page.as_raw_fd()).unwrap();
        Self { page, words }
    }

    pub fn capacity(&self, bytes: u64) -> Capacity {
        let ask = move |size: u64| if size > bytes { Err("The spool is full".to_owned()) } else { Ok(size) };
        Capacity::new(SharedWords::open(self.page.as_raw_fd()).unwrap(), REFUSING, TAKEN, Box::new(ask))
    }
}

/// The commit worker's side of a queue.
pub struct CommitWorker {
    page: OwnedFd,
    pub words: SharedWords,
    pub requests: EventFd,
    replies: EventFd,
}

impl CommitWorker {
    pub fn new() -> Self {
        let page = shared_memory(24);
        let words = SharedWords::open(page.as_raw_fd()).unwrap();
        Self { page, words, requests: EventFd::new().unwrap(), replies: EventFd::new().unwrap() }
    }

    pub fn end(&self) -> SyncQueueEnd {
        let descriptors: [RawFd; 3] = [self.page.as_raw_fd(), self.requests.descriptor(), self.replies.descriptor()];
        let [page, requests, replies] = descriptors;
        SyncQueueEnd { page, submitted: SUBMITTED, completed: COMPLETED, requests, replies }
    }

    /// Answers that all files were completed, in an epoch.
    pub fn complete(&self, epoch: i64) {
        self.words.set(COMPLETED, self.words.get(SUBMITTED) << 16 | epoch);
        self.replies.notify();
    }
}

/// Returns a spooler without slots.
pub fn spooler(folder: &Folder, counters: &Counters, bytes: u64) -> Spooler {
    Spooler::new(folder.ready(), counters.capacity(bytes))
}
