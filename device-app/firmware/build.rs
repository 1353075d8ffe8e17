//! Selects the board, and copies its memory map to where the linker looks for `memory.x`.

use std::{env, error::Error, fs, path::Path};

/// The default board of each target; the environment variable `BOARD` selects another.
const BOARDS: &[(&str, &str)] = &[
    // target, name
    ("thumbv7em-none-eabihf", "mps2_an500"),
    ("riscv32imafc-unknown-none-elf", "riscv_virt"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let target = env::var("TARGET")?;
    let usual = || BOARDS.iter().find(|(of, _)| *of == target).map(|(_, board)| (*board).to_owned());
    let no_board = || format!("there is no board for {target}: docs/port-a-board.md says how to add one");
    let board = env::var("BOARD").ok().or_else(usual).ok_or_else(no_board)?;
    let (map, folder) = (format!("src/board/{board}.x"), env::var("OUT_DIR")?);
    fs::copy(&map, Path::new(&folder).join("memory.x")).map_err(|error| format!("{map}: {error}"))?;
    println!("cargo:rustc-cfg=board=\"{board}\"");
    println!("cargo:rustc-check-cfg=cfg(board, values(any()))");
    println!("cargo:rustc-link-search={folder}");
    println!("cargo:rerun-if-changed={map}");
    println!("cargo:rerun-if-env-changed=BOARD");
    Ok(())
}
