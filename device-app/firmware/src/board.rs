//! What a board brings: where its heap lies, and what runs first. `docs/port-a-board.md` says how to add one.

#[cfg(target_arch = "arm")]
#[path = "board/mps2_an500.rs"]
mod mps2_an500;
#[cfg(target_arch = "riscv32")]
#[path = "board/riscv_virt.rs"]
mod riscv_virt;

#[cfg(target_arch = "arm")]
pub use self::mps2_an500::HEAP;
#[cfg(target_arch = "riscv32")]
pub use self::riscv_virt::HEAP;
