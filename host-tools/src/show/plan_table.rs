//! How a run stays inside a budget, block by block.

use std::path::Path;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use distill_core::{BlockPlan, Budget, Device, Run, Scratch, Settings, Source, plan};
use distill_device::{Advised, open_pack, program_bytes};
use serde::Serialize;

use super::table;

/// The object `inspect --budget --json` prints.
#[derive(Debug, Serialize)]
pub struct PlanTable {
    /// Most heap that the run may use.
    pub budget_bytes: u64,
    /// Most heap that it would use.
    pub planned_bytes: u64,
    /// Size of the cached activations; `None` for standard noise.
    pub cache_bytes: Option<u64>,
    /// Whether they are in a file.
    pub cache_in_file: bool,
    /// The blocks that the run passes through, in order.
    pub blocks: Vec<PlanLine>,
}

#[derive(Debug, Serialize)]
pub struct PlanLine {
    /// Number among the neighbourhoods; `None` for a block that is not distilled.
    pub index: Option<usize>,
    pub name: String,
    /// Inputs in each pass of the gradient steps or, without steps, of the solve.
    pub micro_batch: Option<usize>,
    /// Threads that have work.
    pub workers: Option<usize>,
    /// Most heap that the run would use there.
    pub planned_bytes: u64,
}

impl PlanTable {
    /// Plans a run over the pack at `path`.
    ///
    /// # Errors
    /// The file, or a budget that is too small.
    pub fn new(path: &Path, mut source: Box<dyn Source>, settings: &Settings) -> Result<Self> {
        let mut teacher = open_pack(path)?;
        let budget = Budget { used: program_bytes(&teacher), ..settings.budget };
        let settings = &Settings { budget, ..settings.clone() };
        let context = || format!("cannot plan a run over {}", path.display());
        // Only that there is a storage counts.
        let scratch = Some(Box::<Vec<u8>>::default() as Box<dyn Scratch>);
        let mut run = Run { teacher: &mut teacher, source: &mut *source, scratch, settings, device: &Device::Cpu };
        let plan = plan(&mut run).map_err(Advised::advised).with_context(context)?;
        let line = |block: &BlockPlan| PlanLine {
            index: block.number,
            name: block.name.clone(),
            micro_batch: block.number.map(|_| block.micro_batch(settings)),
            workers: block.number.map(|_| block.portions.workers),
            planned_bytes: block.bytes,
        };
        Ok(Self {
            budget_bytes: settings.budget.bytes,
            planned_bytes: plan.bytes,
            cache_bytes: plan.cache.map(|cache| cache.bytes()),
            cache_in_file: plan.cache.is_some_and(|cache| cache.in_storage),
            blocks: plan.blocks.iter().map(line).collect(),
        })
    }

    /// The table that a person reads.
    pub fn table(&self) -> String {
        let titles = ["#", "block", "inputs at a time", "threads", "planned KiB"];
        let number = |value: Option<usize>| value.map_or_else(String::new, |value| value.to_string());
        let rows = self.blocks.iter().map(|PlanLine { index, name, micro_batch, workers, planned_bytes }| {
            let planned = planned_bytes.div_ceil(1 << 10).to_string();
            [number(*index), name.clone(), number(*micro_batch), number(*workers), planned]
        });
        let table = table(titles, &[0, 2, 3, 4], rows);
        let size = |bytes: u64| ByteSize(bytes).display().iec();
        let cache = match self.cache_bytes {
            Some(bytes) => {
                let place = if self.cache_in_file { "a file" } else { "memory" };
                format!("; cached activations: {} in {place}", size(bytes))
            }
            None => String::new(),
        };
        format!("{table}\nplanned: {} of {}{cache}", size(self.planned_bytes), size(self.budget_bytes))
    }
}
