//! What time it is: by the calendar, and by the machine's own count.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};
use viaduct_reconcile::Moment;

/// Seconds since 1970, UTC.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A point of time like `2026-11-24 16:20:11` (UTC).
pub(crate) fn calendar(unix_seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(unix_seconds);
    humantime::format_rfc3339_seconds(time).to_string().replace('T', " ").replace('Z', "")
}

/// The time since this boot.
pub(crate) fn moment() -> Moment {
    // It is there since Linux 2.3; were it not, every moment would be of the same boot.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let now = clock_gettime(ClockId::Boottime);
    let milliseconds = now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000;
    Moment { boot: boot.trim().to_owned(), milliseconds }
}

/// The moment so much later.
pub(crate) fn moment_after(delay: Duration) -> Moment {
    let now = moment();
    let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Moment { milliseconds: now.milliseconds.saturating_add(delay), ..now }
}
