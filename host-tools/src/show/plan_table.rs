//! How a run would stay inside a budget, block by block.

use std::path::Path;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use distill_core::{Budget, Device, Settings, plan};
use distill_device::{open_pack, program_bytes};
use serde::Serialize;

/// The object `inspect --budget --json` prints.
#[derive(Debug, Serialize)]
pub struct PlanTable {
    /// What the run may take, in bytes.
    pub budget_bytes: u64,
    /// The most it would take.
    pub planned_bytes: u64,
    /// Cached activations, in bytes; none for standard noise.
    pub cache_bytes: Option<u64>,
    /// Whether they lie in a file.
    pub cache_in_file: bool,
    /// The blocks the run passes, in order.
    pub blocks: Vec<PlanLine>,
}

/// One block.
#[derive(Debug, Serialize)]
pub struct PlanLine {
    /// Number among the neighbourhoods; none for what is only passed.
    pub index: Option<usize>,
    /// Its name.
    pub name: String,
    /// Inputs whose gradients (or, without steps, sums of the solve) are taken at a time.
    pub micro_batch: Option<usize>,
    /// Threads with work.
    pub workers: Option<usize>,
    /// The most the run would take there, in bytes.
    pub planned_bytes: u64,
}

impl PlanTable {
    /// Plans a run over the pack at `path`.
    ///
    /// # Errors
    /// The file, or a budget that does not do.
    pub fn new(path: &Path, settings: &Settings) -> Result<Self> {
        let mut pack = open_pack(path)?;
        let budget = Budget { used: program_bytes(&pack), ..settings.budget };
        let settings = &Settings { budget, ..settings.clone() };
        let context = || format!("cannot plan a run over {}", path.display());
        let plan = plan(&mut pack, settings, &Device::Cpu, true).with_context(context)?;
        let line = |block: &distill_core::BlockPlan| PlanLine {
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

    /// The table a person reads.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_BORDERS_ONLY);
        table.set_header(["#", "block", "inputs at a time", "threads", "planned KiB"]);
        let number = |value: Option<usize>| value.map_or_else(String::new, |value| value.to_string());
        for PlanLine { index, name, micro_batch, workers, planned_bytes } in &self.blocks {
            let planned = planned_bytes.div_ceil(1 << 10).to_string();
            table.add_row([number(*index), name.clone(), number(*micro_batch), number(*workers), planned]);
        }
        for index in [0, 2, 3, 4] {
            if let Some(column) = table.column_mut(index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let size = |bytes: u64| ByteSize(bytes).display().iec();
        let cache = match self.cache_bytes {
            Some(bytes) => {
                format!(
                    "; cached activations: {} in {}",
                    size(bytes),
                    if self.cache_in_file { "a file" } else { "memory" }
                )
            }
            None => String::new(),
        };
        format!("{table}\nplanned: {} of {}{cache}", size(self.planned_bytes), size(self.budget_bytes))
    }
}
