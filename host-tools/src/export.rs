//! Networks as files that other runtimes open. A file is read back before it is written, and must compute the same.

mod onnx;
mod recompose;
mod safetensors;

use std::path::Path;

use anyhow::{Result, bail, ensure};
use distill_core::{Batch, Chain, Device, Encoding, Interface, Purpose, Shape, Stream};
use distill_device::write_file;

pub use self::recompose::recompose;
use crate::{
    import::{self, ImportOptions, onnx_network},
    network::{Network, ending, file_name},
};

/// Largest allowed difference between the logits of the network and of its file, relative to the largest logit.
const TOLERANCE: f32 = 1e-4;
/// Noise images on which they are compared.
const COMPARED: usize = 2;

/// Writes a network as `.ndp`, `.safetensors` or `.onnx`, by the path's ending. If that fails, an existing file is unchanged.
/// Returns the largest difference between the logits of the network and of its file on noise, relative to the largest
/// logit; it is 0 for a pack, which stores the weights exactly.
///
/// # Errors
/// The file, an unknown ending, or a file that would compute something else.
pub fn export(network: &Network, path: &Path) -> Result<f32> {
    let name = file_name(path);
    let (bytes, again) = match ending(path) {
        "ndp" => return network.write_pack(path, Encoding::F32).map(|()| 0.0),
        "safetensors" => {
            let bytes = safetensors::encode(network)?;
            let again = import::safetensors::decode(&bytes, &name)?;
            (bytes, again)
        }
        "onnx" => {
            let bytes = onnx::encode(network);
            let again = onnx_network(&bytes, Path::new("."), &ImportOptions::default(), &name)?;
            (bytes, Some(again))
        }
        _ => return check_ending(path).map(|()| 0.0),
    };
    let Some(again) = again else { bail!("cannot write {}: it would not describe its blocks", path.display()) };
    let ends = |network: &Network| (interface(network), network.input(), output_shape(network));
    let (ours, theirs) = (ends(network), ends(&again));
    ensure!(
        ours == theirs,
        "cannot write {}: the file would have another input or output, {theirs:?} instead of {ours:?}",
        path.display()
    );
    let difference = difference(network, &again);
    ensure!(
        difference <= TOLERANCE,
        "cannot write {}: the file would compute something else, by {difference:e} of the largest logit",
        path.display()
    );
    write_file(path, &bytes)?;
    Ok(difference)
}

/// Checks that [`export`] can write files of this ending.
pub fn check_ending(path: &Path) -> Result<()> {
    match ending(path) {
        "ndp" | "safetensors" | "onnx" => Ok(()),
        other => bail!("cannot write {}: unknown ending {other:?} (known: ndp, safetensors, onnx)", path.display()),
    }
}

/// Names and dimensions of a network's input and output: its file's, else ours.
fn interface(network: &Network) -> Interface {
    let Shape { height, width, .. } = output_shape(network);
    network.manifest.interface.clone().unwrap_or_else(|| Interface {
        input: "input".to_owned(),
        output: "logits".to_owned(),
        rank: if height * width == 1 { 2 } else { 4 },
        probabilities: None,
    })
}

/// The shape of what a network gives for one image.
fn output_shape(network: &Network) -> Shape {
    network.blocks[network.blocks.len() - 1].output()
}

/// `max |a − b| / max |a|` over the logits of noise images.
fn difference(network: &Network, again: &Network) -> f32 {
    let images = Stream::new(0, Purpose::Measure, 0).images(COMPARED, network.input());
    let images = Batch::from_values(&images, network.input());
    let [ours, theirs] = [network, again].map(|network| {
        let mut logits = Batch::new(&Device::Cpu);
        Chain::new(&network.blocks, &Device::Cpu).forward(&images, &mut logits);
        logits.to_values()
    });
    let scale = ours.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    // NaN must not count as agreement.
    ours.iter().zip(&theirs).fold(0.0, |most: f32, (a, b)| {
        let here = (a - b).abs() / scale;
        if here <= most { most } else { here }
    })
}
