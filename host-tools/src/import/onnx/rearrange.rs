//! Operators that compute nothing: other extents, parts of a value, values beside each other.

use anyhow::{Context, Result, bail, ensure};
use distill_core::{
    Op, Shape, Slice,
    onnx::{Attribute, Numbers, Tensor},
};

use super::{
    attributes::{attribute, int, ints, kind},
    constants::to_ints,
    fold_constants::{ConstantOperator, reshaped},
    read::Reader,
    value::Value,
};
use crate::onnx::NodeProto;

impl<'a> Reader<'a> {
    /// The same elements in other dimensions.
    pub(super) fn view(&mut self, node: &NodeProto, value: &Value) -> Result<Value> {
        let dims = match kind(node) {
            "Flatten" => {
                let axis = int(node, "axis").unwrap_or(1);
                let is_first = axis == 1 || axis + value.rank() as i64 == 1;
                ensure!(is_first, "it flattens from axis {axis} on, not from 1");
                vec![self.batch, value.dims[1..].iter().product()]
            }
            "Reshape" => {
                let wanted = self.constant(node, 1).context("its shape is computed from the images' values")?;
                reshaped(&value.dims, &to_ints(wanted))?
            }
            // Axes are squeezed in a value as in a constant of its extents.
            _ => {
                let stand_in = Tensor { name: None, dims: value.dims.clone(), values: Numbers::Ints(Vec::new()) };
                let inputs = [Some(&stand_in), self.constant(node, 1)];
                let squeezed = ConstantOperator { node, inputs: &inputs, fill: None, limit: 0 }.evaluate()?;
                squeezed.context("it is not supported")?.dims
            }
        };
        let Shape { channels, height, width } = self.graph.shape(value.id);
        let elements = channels * height * width;
        let id = match dims.as_slice() {
            [batch, c, rest @ ..]
                if (*batch, *c) == (self.batch, channels)
                    && rest.len() <= 2
                    && rest.iter().product::<usize>() == height * width =>
            {
                ensure!(rest.len() < 2 || rest == [height, width], "it changes rows and columns to {dims:?}");
                value.id
            }
            [batch, c] | [batch, c, 1, 1] if (*batch, *c) == (self.batch, elements) => {
                value.check_logits()?;
                let name = self.names.operator(node, &self.module(node), &Op::Flatten);
                self.graph.push(&name, Op::Flatten, &[value.id], Vec::new())?
            }
            _ => bail!("it reshapes {:?} to {dims:?}, which is more than a flattening", value.dims),
        };
        Ok(Value { id, dims, probabilities: value.probabilities })
    }

    /// Parts of a value's channels.
    pub(super) fn split(&mut self, node: &'a NodeProto, value: &Value) -> Result<()> {
        let axis = int(node, "axis").unwrap_or(0);
        ensure!(axis == 1 || axis == 1 - value.rank() as i64, "it splits along axis {axis}, not along channels");
        let channels = self.graph.shape(value.id).channels;
        let sizes = self.constant(node, 1).map(to_ints).or_else(|| ints(node, "split"));
        let equal = channels.div_ceil(node.output.len().max(1)) as i64;
        let mut start = 0;
        for (index, output) in node.output.iter().enumerate() {
            let size = sizes.as_ref().map_or(equal, |sizes| sizes.get(index).copied().unwrap_or(0));
            let size = usize::try_from(size).context("a part has no channels")?;
            let end = (start + size).min(channels);
            let slice = Slice {
                start: [start as u32, 0, 0],
                end: [if end == channels { u32::MAX } else { end as u32 }, u32::MAX, u32::MAX],
                step: [1; 3],
            };
            let name = self.names.unused(&kind(node).to_lowercase());
            let id = self.graph.push(&name, Op::Slice(slice), &[value.id], Vec::new())?;
            let value = self.new_value(id, value.rank());
            self.values.insert(output, value);
            start = end;
        }
        Ok(())
    }

    /// A concatenation or a sum of any number of values, two at a time.
    pub(super) fn join(&mut self, node: &NodeProto, first: Value) -> Result<Value> {
        let mut joined = first;
        for slot in 1..node.input.len() {
            let next = self.value(node, slot).cloned().context("it joins values and constants")?;
            let op = match (kind(node), attribute(node, "axis")) {
                ("Sum", _) => Op::Add,
                (_, Some(Attribute::Int(axis))) if axis == 1 || axis == 1 - joined.rank() as i64 => Op::Concat,
                (_, axis) => bail!("it joins along axis {axis:?}, not along channels"),
            };
            // As many copies of a long name would be more than the file.
            let name = match slot + 1 == node.input.len() {
                true => self.names.operator(node, &self.module(node), &op),
                false => self.names.unused(&kind(node).to_lowercase()),
            };
            ensure!(joined.rank() == next.rank(), "its values have different numbers of dimensions");
            let id = self.graph.push(&name, op, &[joined.id, next.id], Vec::new())?;
            joined = self.new_value(id, joined.rank());
        }
        Ok(joined)
    }
}
