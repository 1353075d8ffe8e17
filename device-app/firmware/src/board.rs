//! A board's heap range and start-up code, selected by `build.rs`. `docs/port-a-board.md` says how to add a board.

#[cfg(board = "mps2_an500")]
#[path = "board/mps2_an500.rs"]
mod chosen;
#[cfg(board = "riscv_virt")]
#[path = "board/riscv_virt.rs"]
mod chosen;

pub use self::chosen::HEAP;
