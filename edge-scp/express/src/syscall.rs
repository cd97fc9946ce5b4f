//! Results of system calls, and what all of them have in common.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Returns a system call's result, or the error it set.
pub fn checked(result: i32) -> Result<i32> {
    if result < 0 {
        return Err(Error::last_os_error());
    }
    Ok(result)
}

/// Repeats a system call that transfers bytes until no signal interrupts it.
pub fn retried(call: impl Fn() -> isize) -> Result<usize> {
    loop {
        if let Ok(transferred) = usize::try_from(call()) {
            return Ok(transferred);
        }
        let error = Error::last_os_error();
        if error.kind() != ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes ownership of the descriptor that a system call returned, unless it returned an error.
pub fn owned(result: i32) -> Result<OwnedFd> {
    let descriptor = checked(result)?;
    // SAFETY: the call has just opened this descriptor for us, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Duplicates a descriptor that somebody else owns and may close.
pub fn duplicate(descriptor: RawFd) -> Result<OwnedFd> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) touches no memory of ours; a bad descriptor is an error.
    owned(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 0) })
}
