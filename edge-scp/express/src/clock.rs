//! The clocks, and a time as records and logs write it.

/// Returns the monotonic clock's time in seconds.
pub fn monotonic() -> f64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Returns the nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    let time = read(libc::CLOCK_REALTIME);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Formats nanoseconds since 1970 as ISO 8601, in UTC and to the microsecond.
pub fn timestamp(unix_ns: u64) -> String {
    let (seconds, micros) = ((unix_ns / 1_000_000_000) as libc::time_t, unix_ns / 1000 % 1_000_000);
    // SAFETY: all zeros is a valid tm.
    let mut at: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both arguments are valid, one for reading and one for writing.
    unsafe { libc::gmtime_r(&seconds, &mut at) };
    let (year, month, day) = (at.tm_year + 1900, at.tm_mon + 1, at.tm_mday);
    let (hour, minute, second) = (at.tm_hour, at.tm_min, at.tm_sec);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing, and both clocks exist on Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time
}
