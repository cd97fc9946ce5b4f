//! One instance on its way to the disk: a file without a name, which gets one when it is whole.
//!
//! As `edge_scp.spool.file` has it. A file is closed when it is dropped, and gone if it has no name then.

use std::ffi::CString;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::iter::once;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use sha2::{Digest, Sha256};

use crate::shared::checked;
use crate::socket::retried;

/// Of an instance that arrives, so much is written back at a time, and of a long one a growing part.
const WRITE_BACK: u64 = 192 * 1024;
const WRITE_BACK_PART: u64 = 8;
/// What one system call takes (IOV_MAX).
const AT_ONCE: usize = 1024;

/// How files are made.
pub struct Folder {
    /// An open descriptor of the spool's `ready/`.
    pub ready: RawFd,
    pub write_back: bool,
    pub digest: bool,
}

/// A file that takes a DICOM file's bytes.
pub struct SpoolFile {
    file: OwnedFd,
    /// Not written yet.
    header: Vec<u8>,
    digest: Option<Sha256>,
    size: u64,
    pub data_set_offset: u64,
    /// What was counted for it in the spool's room.
    pub taken: u64,
    written_back: u64,
    write_back: bool,
}

impl SpoolFile {
    /// Begin a file, whose first bytes will be a DICOM file's header.
    pub fn create(folder: &Folder, header: Vec<u8>) -> Result<Self> {
        let flags = libc::O_WRONLY | libc::O_TMPFILE | libc::O_CLOEXEC;
        // SAFETY: a path that ends in zero; the new descriptor is owned from here on.
        let file = unsafe { OwnedFd::from_raw_fd(checked(libc::openat(folder.ready, c".".as_ptr(), flags, 0o600))?) };
        let data_set_offset = header.len() as u64;
        let digest = folder.digest.then(Sha256::new);
        let write_back = folder.write_back;
        Ok(Self { file, header, digest, size: 0, data_set_offset, taken: 0, written_back: 0, write_back })
    }

    /// Append bytes that were kept elsewhere so far, and hashed.
    pub fn copy(&mut self, bytes: &[u8]) -> Result<()> {
        self.append([bytes].iter())
    }

    /// Go on with the digest of what was kept elsewhere.
    pub fn resume(&mut self, digest: Option<Sha256>) {
        self.digest = digest;
    }

    /// Append pieces of the data set.
    pub fn write(&mut self, pieces: &[&[u8]]) -> Result<()> {
        self.digest(pieces);
        self.append(pieces.iter())
    }

    /// Return the SHA-256 of the data set with its last pieces, which `seal` will append.
    pub fn sha256(&mut self, last: &[&[u8]]) -> [u8; 32] {
        self.digest(last);
        self.digest.take().map_or([0; 32], |digest| digest.finalize().into())
    }

    /// Append the last pieces of the data set and what says that the file is whole, and give it its name.
    pub fn seal(&mut self, folder: &Folder, last: &[&[u8]], footer: &[u8], name: &str) -> Result<()> {
        self.append(last.iter().chain([&footer]))?;
        let path = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd())).map_err(Error::other)?;
        let name = CString::new(name).map_err(Error::other)?;
        let (here, there) = (libc::AT_FDCWD, folder.ready);
        // SAFETY: two paths that end in zero.
        checked(unsafe { libc::linkat(here, path.as_ptr(), there, name.as_ptr(), libc::AT_SYMLINK_FOLLOW) })?;
        Ok(())
    }

    fn digest(&mut self, pieces: &[&[u8]]) {
        if let Some(digest) = &mut self.digest {
            pieces.iter().for_each(|piece| digest.update(piece));
        }
    }

    fn append<'a>(&mut self, pieces: impl Iterator<Item = &'a &'a [u8]>) -> Result<()> {
        let header = std::mem::take(&mut self.header);
        let pieces = pieces.map(|piece| IoSlice::new(piece));
        let mut slices: Vec<IoSlice<'_>> = once(IoSlice::new(&header)).chain(pieces).collect();
        self.written(&mut slices)?;
        let waiting = self.size - self.written_back;
        if self.write_back && waiting >= WRITE_BACK && waiting >= self.size / WRITE_BACK_PART {
            let (from, length) = (self.written_back as i64, waiting as i64);
            // SAFETY: a plain system call.
            checked(unsafe {
                libc::sync_file_range(self.file.as_raw_fd(), from, length, libc::SYNC_FILE_RANGE_WRITE)
            })?;
            self.written_back = self.size;
        }
        Ok(())
    }

    fn written(&mut self, mut pieces: &mut [IoSlice<'_>]) -> Result<()> {
        while !pieces.is_empty() {
            let count = pieces.len().min(AT_ONCE);
            // SAFETY: IoSlice is an iovec, and each is valid for reading.
            let written =
                retried(|| unsafe { libc::writev(self.file.as_raw_fd(), pieces.as_ptr().cast(), count as i32) })?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            self.size += written as u64;
            IoSlice::advance_slices(&mut pieces, written);
        }
        Ok(())
    }
}

/// Remove a file that has its name but is not kept.
pub fn unlink(folder: &Folder, name: &str) {
    if let Ok(name) = CString::new(name) {
        // SAFETY: a path that ends in zero.
        unsafe { libc::unlinkat(folder.ready, name.as_ptr(), 0) };
    }
}
