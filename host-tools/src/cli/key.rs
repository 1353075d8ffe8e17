//! The command `key`: makes keys, and signs packs that are there.

use std::{
    ffi::OsString,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use distill_core::SigningKey;
use distill_device::{PUBLIC, SECRET, SignOptions, hex, print, say, write_file};
use serde_json::json;
use tempfile::NamedTempFile;

#[derive(Args)]
pub struct KeyArgs {
    /// File for a new secret key; the public one is put beside it, as FILE.pub. Neither may be there already
    #[arg(short, long, value_name = "FILE", required_unless_present = "sign", conflicts_with = "sign")]
    output: Option<PathBuf>,
    /// Packs to sign, in their place
    #[arg(requires = "sign", conflicts_with = "output")]
    packs: Vec<PathBuf>,
    #[command(flatten)]
    sign: SignOptions,
}

pub fn make_or_use_key(json: bool, KeyArgs { output, packs, sign }: &KeyArgs) -> Result<()> {
    match output {
        Some(output) => make_key(json, output),
        None => sign_packs(json, packs, sign),
    }
}

/// Makes a pair of keys. A secret key is never replaced: devices trust what it signed.
fn make_key(json: bool, output: &Path) -> Result<()> {
    let mut name = OsString::from(output);
    name.push(".pub");
    let public = PathBuf::from(name);
    for path in [output, &public] {
        let is_free = path.symlink_metadata().is_err();
        ensure!(is_free, "cannot write {}: it is there already, and a key is never replaced", path.display());
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers")?;
    let key = hex(SigningKey::from_bytes(&seed).verifying_key().as_bytes());
    let written = write_secret(output, &format!("{SECRET}{}\n", hex(&seed)));
    written.with_context(|| format!("cannot write {}", output.display()))?;
    // Without its public key, a secret one would stand in the way of the next try.
    write_file(&public, format!("{PUBLIC}{key}\n").as_bytes()).inspect_err(|_| drop(fs::remove_file(output)))?;
    print(json, &json!({"secret": output, "public": public, "key": key}), || {
        format!(
            "{} signs packs (--sign): keep it to yourself. {} is for those who check them (--require-signed-by)",
            output.display(),
            public.display()
        )
    })
}

/// Writes a file that only its owner may read, unless there is one.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    Ok(())
}

fn sign_packs(json: bool, packs: &[PathBuf], sign: &SignOptions) -> Result<()> {
    ensure!(!packs.is_empty(), "name the packs to sign");
    for path in packs {
        sign.signer(path)?.map_or(Ok(()), |signer| signer.sign_file(path))?;
        say(&format!("signed: {}", path.display()));
    }
    print(json, &json!({"signed": packs}), || format!("{} signed", packs.len()))
}
