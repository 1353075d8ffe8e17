//! Names for operators and weights: the teacher's own where the file still has them, and each only once.

use std::collections::HashMap;

use distill_core::{Op, Weight};

use super::attributes::kind;
use crate::onnx::NodeProto;

/// Bytes of a name that any number of weights may share.
const LONGEST: usize = 256;

/// The names given so far, each with the number of times it was asked for again.
#[derive(Default)]
pub struct Names {
    used: HashMap<String, usize>,
}

impl Names {
    /// An unused name for an operator: a layer's is that of its module.
    pub fn operator(&mut self, node: &NodeProto, module: &str, op: &Op) -> String {
        let own = node.name.as_deref().unwrap_or_default();
        let last = own.rsplit('/').next().unwrap_or_default().to_lowercase();
        let last = if last.is_empty() { kind(node).to_lowercase() } else { last };
        let layer = op.is_layer() || matches!(op, Op::BatchNorm(_));
        let name = match (layer, module.is_empty()) {
            (true, false) => module.to_owned(),
            (_, true) => last,
            (false, false) => format!("{module}.{last}"),
        };
        self.unused(&name)
    }

    /// Renames a weight whose name is taken, or so long that a name for each layer would be more than the file: several layers may
    /// share one constant.
    pub fn weight(&mut self, mut weight: Weight, layer: &str) -> Weight {
        let is_long = weight.name.len() > LONGEST;
        if is_long || self.used.insert(format!("weight {}", weight.name), 0).is_some() {
            let part = weight.name.rsplit('.').next().filter(|_| !is_long).unwrap_or("weight").to_owned();
            let name = self.unused(&format!("weight {layer}.{part}"));
            weight.name = name.trim_start_matches("weight ").to_owned();
        }
        weight
    }

    /// The name itself, or with a number if it is taken.
    pub fn unused(&mut self, name: &str) -> String {
        let mut unused = name.to_owned();
        while self.used.contains_key(&unused) {
            let asked = self.used.entry(name.to_owned()).or_default();
            *asked += 1;
            unused = format!("{name}#{asked}");
        }
        self.used.insert(unused.clone(), 0);
        unused
    }
}

/// The module in a node's name: `layer1.0.conv1` from `/layer1/layer1.0/conv1/Conv`, where a part repeats the one before
/// it as its prefix.
pub fn module(node_name: &str) -> String {
    let Some((path, _)) = node_name.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return String::new();
    };
    let mut full: Vec<&str> = Vec::new();
    let mut before: &str = "";
    for part in path.split('/') {
        if !before.is_empty() && part.strip_prefix(before).is_some_and(|rest| rest.starts_with('.')) {
            full.pop();
        }
        full.push(part);
        before = part;
    }
    full.join(".")
}

/// Whether a person or PyTorch chose a constant's name; exporters number the rest.
pub fn is_chosen(constant: &str) -> bool {
    constant.contains(['.', '/']) && !constant.starts_with("onnx::") && !constant.starts_with("val_")
}
