//! The commands that help with the others, made from their definitions: `completions` and `man`.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::{Man, generate_to};
use distill_device::{print, write_file, write_out};
use serde_json::json;

/// Prints the completions, or an object with them.
pub fn completions(json: bool, shell: Shell, command: &mut Command) -> Result<()> {
    let mut script = Vec::new();
    generate(shell, command, "distill", &mut script);
    text(json, "script", &script)
}

/// Prints the program's manual page, or writes a page for it and each of its commands to `dir`.
pub fn manual(json: bool, dir: Option<&Path>, command: Command) -> Result<()> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return text(json, "page", &page);
    };
    let write = || -> Result<()> {
        fs::create_dir_all(dir)?;
        // Written elsewhere first: the generator would follow links.
        let pages = tempfile::tempdir()?;
        generate_to(command, &pages)?;
        for page in fs::read_dir(&pages)? {
            let page = page?;
            write_file(&dir.join(page.file_name()), &fs::read(page.path())?)?;
        }
        Ok(())
    };
    write().with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
    print(json, &json!({"folder": dir}), || format!("manual pages are in {}", dir.display()))
}

fn text(json: bool, name: &str, text: &[u8]) -> Result<()> {
    if json { print(true, &json!({name: String::from_utf8_lossy(text)}), String::new) } else { write_out(text) }
}
