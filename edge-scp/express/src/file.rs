//! One instance on its way to the disk as a file of its own, which gets its name when it is complete
//! (`edge_scp.spool.file`, docs/adr/0014).

use std::ffi::CString;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::iter::once;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use sha2::{Digest, Sha256};

use crate::syscall::{checked, owned, retried};

/// The disk starts on this many bytes at a time, or on a fraction of the file if that is more.
const WRITE_BACK: u64 = 192 * 1024;
const WRITE_BACK_FRACTION: u64 = 8;
/// Pieces that one system call writes (IOV_MAX).
const MAX_PIECES: usize = 1024;

/// The spool's folder of complete files, by a descriptor that its owner keeps open.
#[derive(Clone, Copy)]
pub struct ReadyFolder(pub RawFd);

impl ReadyFolder {
    /// Removes a file whose instance is not stored after all.
    pub fn unlink(self, name: &str) {
        if let Ok(name) = CString::new(name) {
            // SAFETY: the name ends with a zero byte.
            unsafe { libc::unlinkat(self.0, name.as_ptr(), 0) };
        }
    }
}

/// A file that is being written; dropped without a name, it is gone.
pub struct SpoolFile {
    file: OwnedFd,
    /// What goes before the data set and is not written yet.
    header: Vec<u8>,
    digest: Sha256,
    size: u64,
    written_back: u64,
    pub data_set_offset: u64,
    /// The bytes taken for it from the spool's capacity.
    pub taken: u64,
}

impl SpoolFile {
    /// Creates a file that begins with a DICOM file's header.
    pub fn create(folder: ReadyFolder, header: Vec<u8>) -> Result<Self> {
        let flags = libc::O_WRONLY | libc::O_TMPFILE | libc::O_CLOEXEC;
        // SAFETY: the path ends with a zero byte.
        let file = owned(unsafe { libc::openat(folder.0, c".".as_ptr(), flags, 0o600) })?;
        let data_set_offset = header.len() as u64;
        Ok(Self { file, header, digest: Sha256::new(), size: 0, written_back: 0, data_set_offset, taken: 0 })
    }

    /// Appends bytes that are in the digest already.
    pub fn copy(&mut self, bytes: &[u8]) -> Result<()> {
        self.append([bytes].iter())
    }

    /// Continues a digest that was begun elsewhere.
    pub fn continue_digest(&mut self, digest: Sha256) {
        self.digest = digest;
    }

    /// Appends pieces of the data set.
    pub fn write(&mut self, pieces: &[&[u8]]) -> Result<()> {
        self.update_digest(pieces);
        self.append(pieces.iter())
    }

    /// Returns the SHA-256 of the data set including its last pieces, which `seal` will append.
    pub fn sha256(&mut self, last: &[&[u8]]) -> [u8; 32] {
        self.update_digest(last);
        std::mem::take(&mut self.digest).finalize().into()
    }

    /// Appends the last pieces of the data set and the record's footer, and gives the file its name.
    pub fn seal(&mut self, folder: ReadyFolder, last: &[&[u8]], footer: &[u8], name: &str) -> Result<()> {
        self.append(last.iter().chain([&footer]))?;
        let path = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd())).map_err(Error::other)?;
        let name = CString::new(name).map_err(Error::other)?;
        let (from, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
        // SAFETY: both paths end with a zero byte.
        checked(unsafe { libc::linkat(from, path.as_ptr(), folder.0, name.as_ptr(), flags) })?;
        Ok(())
    }

    fn update_digest(&mut self, pieces: &[&[u8]]) {
        pieces.iter().for_each(|piece| self.digest.update(piece));
    }

    fn append<'a>(&mut self, pieces: impl Iterator<Item = &'a &'a [u8]>) -> Result<()> {
        let header = std::mem::take(&mut self.header);
        let slices = once(IoSlice::new(&header)).chain(pieces.map(|piece| IoSlice::new(piece)));
        // There are none when a receive brought only the headers of a data set's PDUs.
        let mut slices: Vec<IoSlice<'_>> = slices.filter(|slice| !slice.is_empty()).collect();
        self.write_all(&mut slices)?;
        let waiting = self.size - self.written_back;
        if waiting >= WRITE_BACK && waiting >= self.size / WRITE_BACK_FRACTION {
            let (from, length) = (self.written_back as i64, waiting as i64);
            let (file, flags) = (self.file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
            // SAFETY: sync_file_range touches no memory of ours.
            checked(unsafe { libc::sync_file_range(file, from, length, flags) })?;
            self.written_back = self.size;
        }
        Ok(())
    }

    fn write_all(&mut self, mut pieces: &mut [IoSlice<'_>]) -> Result<()> {
        while !pieces.is_empty() {
            let (start, count) = (pieces.as_ptr().cast(), pieces.len().min(MAX_PIECES) as i32);
            // SAFETY: IoSlice has the layout of an iovec, and each is valid for reading.
            let written = retried(|| unsafe { libc::writev(self.file.as_raw_fd(), start, count) })?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            self.size += written as u64;
            IoSlice::advance_slices(&mut pieces, written);
        }
        Ok(())
    }
}
