//! Students that are made in memory.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use distill_core::{Block, Budget, CalibratedNoise, Device, Event, NoiseImages, Pack, Run, Settings, run};
use distill_device::{available_memory, open_pack};

/// The calibrated noise in a teacher's pack.
///
/// # Errors
/// A pack that cannot be read, or has none.
pub fn noise_of(teacher: &Path) -> Result<NoiseImages> {
    let shown = teacher.display();
    open_pack(teacher)?
        .noise_images()?
        .with_context(|| format!("{shown} holds no noise images: add them with `distill calibrate {shown} -o {shown}`"))
}

/// The students of a teacher's blocks, each made on the teacher's own activations on its calibrated noise, with their positions.
/// `finished` is called after each.
///
/// # Errors
/// Those of [`run`].
pub fn independent_students(teacher: &Path, settings: &Settings, finished: impl Fn()) -> Result<Vec<(usize, Block)>> {
    // A run that does not fit in what is free is refused, not killed.
    let budget = Budget { bytes: available_memory().unwrap_or(u64::MAX), used: 0 };
    let settings = Settings { sequential: false, budget, ..settings.clone() };
    let job = Run {
        teacher: &mut open_pack(teacher)?,
        source: &mut CalibratedNoise(open_pack(teacher)?),
        scratch: None,
        settings: &settings,
        device: &Device::Cpu,
    };
    let observe = |event: Event<'_>| {
        if matches!(event, Event::Finished(..)) {
            finished();
        }
    };
    let (_, bytes) = run(job, Vec::new(), observe).map_err(|error| anyhow!("{error}"))?;
    let mut pack = Pack::open(bytes).context("cannot read the students")?;
    let blocks = pack.blocks();
    (0..blocks).map(|index| Ok((pack.position(index), pack.block(index)?))).collect()
}
