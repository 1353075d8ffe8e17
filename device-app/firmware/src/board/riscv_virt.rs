//! QEMU's generic RISC-V machine with a 32-bit core that has single-precision floats: `qemu-system-riscv32 -M virt`.

use core::ops::Range;

// The critical sections of the allocator.
use riscv as _;
use riscv_rt::entry;

/// Memory after the program's own, see `riscv_virt.x`.
pub const HEAP: Range<usize> = 0x8080_0000..0x8140_0000;

#[entry]
fn start() -> ! {
    crate::main()
}
