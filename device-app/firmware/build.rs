//! Puts the board's memory map where the linker looks for `memory.x`.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let board = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "arm" => "mps2_an500",
        "riscv32" => "riscv_virt",
        other => return Err(format!("there is no board with {other}: docs/port-a-board.md says how to add one").into()),
    };
    let (map, folder) = (format!("src/board/{board}.x"), env::var("OUT_DIR")?);
    fs::copy(&map, Path::new(&folder).join("memory.x"))?;
    println!("cargo:rustc-link-search={folder}");
    println!("cargo:rerun-if-changed={map}");
    Ok(())
}
