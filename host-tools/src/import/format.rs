//! What a file is, by its first bytes: people name the same checkpoint `.pth`, `.ckpt`, `.bin` or `.pth.tar`.

use std::path::Path;

use anyhow::{Error, Result, anyhow, bail, ensure};
use distill_core::MAGIC;

/// A kind of file that `import` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A zip archive, as `torch.save` writes it since PyTorch 1.6.
    TorchZip,
    /// Pickles one after another, as `torch.save` wrote before.
    TorchLegacy,
    Safetensors,
    Onnx,
}

/// A kind of file that `import` does not read: its first bytes, what it is, and what to do.
struct Foreign {
    magic: &'static [u8],
    is: &'static str,
    advice: &'static str,
}

const UNPACK: &str = "unpack it and import the checkpoint inside";
const KERAS: &str = "export it as .onnx: `pip install tf2onnx`, then in Python `tf2onnx.convert.from_keras(keras.models.load_model(\"FILE\"), \
                     output_path=\"model.onnx\")`";
const NUMPY: &str = "save its arrays as tensors: `torch.save({name: torch.as_tensor(array) for name, array in \
                     numpy.load(\"FILE\").items()}, \"model.pth\")`";
const DOWNLOAD: &str = "download the file itself";

const FOREIGN: [Foreign; 13] = [
    Foreign { magic: b"\x89HDF\r\n\x1a\n", is: "an HDF5 file, as Keras writes", advice: KERAS },
    Foreign { magic: b"\x93NUMPY", is: "one numpy array", advice: "a network needs all of its weights, by name" },
    Foreign { magic: b"\x1f\x8b", is: "compressed by gzip", advice: UNPACK },
    Foreign { magic: b"BZh", is: "compressed by bzip2", advice: UNPACK },
    Foreign { magic: b"\xfd7zXZ\0", is: "compressed by xz", advice: UNPACK },
    Foreign { magic: b"\x28\xb5\x2f\xfd", is: "compressed by zstd", advice: UNPACK },
    Foreign { magic: b"7z\xbc\xaf\x27\x1c", is: "a 7-Zip archive", advice: UNPACK },
    Foreign { magic: b"Rar!", is: "a RAR archive", advice: UNPACK },
    Foreign { magic: b"GGUF", is: "a GGUF file of a language model", advice: "import a convolutional network" },
    Foreign {
        magic: b"version https://git-lfs",
        is: "a Git LFS pointer",
        advice: "fetch the file itself by `git lfs pull`",
    },
    Foreign { magic: b"<!DOCTYPE", is: "a web page", advice: DOWNLOAD },
    Foreign { magic: b"<html", is: "a web page", advice: DOWNLOAD },
    Foreign { magic: &MAGIC, is: "a pack of distill", advice: "it is imported already" },
];

/// What a TensorFlow network needs before it can be imported.
const TENSORFLOW: &str = "a TensorFlow network: export it as .onnx: `pip install tf2onnx`, then `python -m tf2onnx.convert \
                          --saved-model FOLDER --output model.onnx`";

impl Format {
    /// Reads a file and says what it is.
    ///
    /// # Errors
    /// The file cannot be read, or `import` does not read such a file: what it is, and what to do.
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>)> {
        if path.is_dir() {
            let is_saved_model = path.join("saved_model.pb").exists();
            bail!("it is {}", if is_saved_model { TENSORFLOW } else { "a folder: give the file of the network in it" });
        }
        // Others may never end.
        ensure!(std::fs::metadata(path)?.is_file(), "it is not a regular file");
        let bytes = std::fs::read(path)?;
        let format = Self::of(&bytes).or_else(|error| {
            // An .onnx without its version, or a damaged one: its reader says more.
            let is_onnx = path.extension().is_some_and(|ending| ending == "onnx") && !is_foreign(&bytes);
            if is_onnx { Ok(Self::Onnx) } else { Err(error) }
        })?;
        Ok((format, bytes))
    }

    /// What the bytes of a file are.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn of(bytes: &[u8]) -> Result<Self> {
        if let Some(Foreign { is, advice, .. }) = FOREIGN.iter().find(|kind| bytes.starts_with(kind.magic)) {
            bail!("it is {is}: {advice}");
        }
        match bytes {
            [] => bail!("it is empty"),
            [b'P', b'K', 3, 4, ..] => Ok(Self::TorchZip),
            // The length of a JSON header, and the header.
            [_, _, _, _, _, _, 0, 0, b'{', ..] => Ok(Self::Safetensors),
            // Protocol, then the number 0x1950a86a20f9469cfc6c.
            [0x80, _, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.', ..] => {
                Ok(Self::TorchLegacy)
            }
            [0x80, 2..=5, ..] => bail!(
                "it is a pickle that `torch.save` did not write: if it holds weights by name, save them as tensors: \
                 `torch.save({{name: torch.as_tensor(values) for name, values in pickle.load(open(\"FILE\", \
                 \"rb\")).items()}}, \"model.pth\")`"
            ),
            [_, _, _, _, b'T', b'F', b'L', ..] => {
                bail!("it is a TensorFlow Lite network: export the network that it was made from as .onnx")
            }
            // Version 1 of a saved model, then its graphs. ONNX files begin alike, with a higher version.
            [8, 1, 0x12, ..] => bail!("it is {TENSORFLOW}"),
            [8, 2..=32, 0x12 | 0x1a | 0x22 | 0x28 | 0x32 | 0x3a | 0x42 | 0x72, ..] => Ok(Self::Onnx),
            _ if bytes.get(257..262) == Some(b"ustar".as_slice()) => bail!("it is a tar archive: {UNPACK}"),
            _ => bail!(
                "it is neither an .onnx, nor a PyTorch checkpoint, nor a .safetensors file: export the network as .onnx, or \
                 save its weights by `torch.save(model.state_dict(), \"model.pth\")`"
            ),
        }
    }
}

fn is_foreign(bytes: &[u8]) -> bool {
    FOREIGN.iter().any(|kind| bytes.starts_with(kind.magic))
}

/// What a zip archive with these files is, if it is no checkpoint.
pub fn foreign_zip<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Error {
    let has = |ending: &str| names.clone().any(|name| name.ends_with(ending));
    if has("/constants.pkl") {
        anyhow!(
            "it is a TorchScript program: save its weights alone: `torch.save(torch.jit.load(\"FILE\", \
             map_location=\"cpu\").state_dict(), \"model.pth\")`"
        )
    } else if has("models/model.json") || has("serialized_exported_program.json") {
        anyhow!(
            "it is a program of torch.export: save its weights alone: \
             `torch.save(dict(torch.export.load(\"FILE\").state_dict), \"model.pth\")`"
        )
    } else if has("model.weights.h5") {
        anyhow!("it is a Keras network: {KERAS}")
    } else if has(".npy") {
        anyhow!("it holds numpy arrays: {NUMPY}")
    } else {
        let inside = names.clone().find(|name| !name.ends_with('/')).unwrap_or("nothing");
        anyhow!("it is a zip archive with {inside} in it, not a checkpoint: {UNPACK}")
    }
}
