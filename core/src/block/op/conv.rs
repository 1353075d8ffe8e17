//! 2-D convolution: dense, grouped or depthwise.

#[cfg(feature = "onnx")]
use alloc::{vec, vec::Vec};

#[cfg(feature = "burn")]
use super::burn::{BurnOperands, Tensor4, padded};
#[cfg(feature = "onnx")]
use super::onnx::{Argument, Attribute, Family, Meaning, Step, window_attributes};
use super::{Arity, Channels, Conv, OnCpu, Op, Operands, Operator, pool::extent};
use crate::{
    block::BlockError,
    tensor::{Shape, Weight},
};

impl Operator for Conv {
    fn arity(&self) -> Arity {
        Arity { inputs: 1, weights: 1..=2 }
    }

    fn shape(&self, given: &Operands<'_>) -> Result<Shape, BlockError> {
        let (x, kernel) = (given.inputs[0], given.weights[0]);
        let &[out, _, rows, columns] = kernel.dims.as_slice() else {
            return Err(BlockError::WeightShape {
                weight: kernel.name.clone(),
                expected: [0; 4].into_iter().collect(),
                found: kernel.dims.clone(),
            });
        };
        let (out, rows, columns, groups) = (out as usize, rows as usize, columns as usize, usize::from(self.groups));
        if groups == 0 || x.channels % groups != 0 || out % groups != 0 {
            return Err(given.misfit(x));
        }
        given.expect(0, &[out, x.channels / groups, rows, columns])?;
        if given.weights.len() == 2 {
            given.expect(1, &[out])?;
        }
        let [top, left, bottom, right] = self.padding;
        let height = extent(x.height, rows, self.stride[0], self.dilation[0], [top, bottom]);
        let width = extent(x.width, columns, self.stride[1], self.dilation[1], [left, right]);
        let (Some(height), Some(width)) = (height, width) else { return Err(given.misfit(x)) };
        Ok(Shape { channels: out, height, width })
    }

    fn channels(&self, given: &Operands<'_>) -> Channels {
        let depthwise = [given.inputs[0].channels, given.weights[0].dims[0] as usize] == [usize::from(self.groups); 2];
        match usize::from(self.groups) {
            1 => Channels::New,
            _ if depthwise => Channels::Same,
            groups => Channels::Grouped(groups),
        }
    }

    /// Whole groups leave, so the input channels of each are the same as before.
    fn narrowed(&self, given: &Operands<'_>, read: &[usize], _written: &[usize]) -> Option<Op> {
        let of_group = given.weights[0].dims[1] as usize;
        (self.groups > 1).then_some(Op::Conv(Self { groups: (read.len() / of_group) as u16, ..*self }))
    }

    fn macs(&self, weights: &[&Weight], output: Shape) -> u64 {
        weights[0].data.len() as u64 * (output.height * output.width) as u64
    }

    fn on_cpu(&self) -> OnCpu<'_> {
        OnCpu::Convolution(*self)
    }

    #[cfg(feature = "burn")]
    fn on_burn(&self, given: BurnOperands) -> Tensor4 {
        use burn::tensor::{module::conv2d, ops::ConvOptions};

        let [stride, dilation] = [self.stride, self.dilation].map(|pair| pair.map(usize::from));
        let options = ConvOptions::new(stride, [0; 2], dilation, self.groups.into());
        let input = padded(given.input(0), self.padding);
        conv2d(input, given.kernel(0), given.weight(1), options)
    }

    #[cfg(feature = "onnx")]
    fn to_onnx(&self, given: &Operands<'_>) -> Vec<Step> {
        let kernel = [2, 3].map(|axis| given.weights[0].dims[axis] as u16);
        let mut attributes = window_attributes(kernel, self.stride, self.padding);
        attributes.push(("dilations", Attribute::ints(self.dilation)));
        attributes.push(("group", Attribute::Int(self.groups.into())));
        let inputs = [Argument::Value(0)].into_iter().chain((0..given.weights.len()).map(Argument::Weight));
        vec![Step { kind: "Conv", inputs: inputs.collect(), attributes }]
    }
}

#[cfg(feature = "onnx")]
pub(super) const ONNX: Family = &[("Conv", |node| {
    let kernel = node.constant(1, "kernel")?;
    let &[_, _, rows, columns] = kernel.dims() else {
        return Err(node.refuse(format_args!("its kernel has {} dimensions, not 4", kernel.dims().len())));
    };
    let dilation = node.pair("dilations", 1)?;
    let window = node.window([rows, columns], dilation)?;
    let groups = node.int("group", 1).try_into().map_err(|_| node.refuse("too many groups"))?;
    let op = Conv { stride: window.stride, padding: window.padding, dilation, groups };
    let mut weights = vec![kernel.weight("weight")?];
    if let Some(bias) = node.optional_constant(2, "bias")? {
        weights.push(bias.weight("bias")?);
    }
    Ok(Meaning { weights, ..Meaning::new(Op::Conv(op)) })
})];
