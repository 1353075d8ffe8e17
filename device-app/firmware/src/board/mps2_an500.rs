//! Arm MPS2 with the AN500 image: a Cortex-M7 and 16 MiB of PSRAM. QEMU: `-M mps2-an500`.

use core::ops::Range;

// The critical sections of the allocator.
use cortex_m as _;
use cortex_m_rt::entry;

/// The PSRAM, but for its last 4 MiB.
pub const HEAP: Range<usize> = 0x6000_0000..0x60C0_0000;

#[entry]
fn start() -> ! {
    crate::main()
}
