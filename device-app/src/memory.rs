//! The memory that this machine has left.

use bytesize::ByteSize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes that a program can still allocate without swapping: what the system has available, or less where a control group
/// (a container, a systemd service, a Slurm job) limits it; `None` on systems that do not say.
pub fn available_memory() -> Option<u64> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory));
    // What a group caches of files counts as its use, but is given up when memory is short.
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(system.available_memory().min(limit)).filter(|&bytes| bytes > 0)
}

/// What any machine has.
const SMALL: u64 = 64 << 20;

/// Checks that `what` ("block 3") fits in the memory that is left.
///
/// # Errors
/// It needs more bytes.
pub fn check_memory(what: &str, bytes: u64) -> anyhow::Result<()> {
    if bytes <= SMALL {
        return Ok(());
    }
    let available = available_memory().unwrap_or(u64::MAX);
    anyhow::ensure!(
        bytes <= available,
        "{what} needs at least {} of memory, and this machine has {} left",
        ByteSize(bytes).display().iec(),
        ByteSize(available).display().iec()
    );
    Ok(())
}
