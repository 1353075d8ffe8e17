//! The translation of operators from and to ONNX.
//!
//! The host handles files: it passes [`OnnxNode`]s, with shapes and constants computed, and writes [`Step`]s.

use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::fmt;

use super::{Op, Window};
use crate::tensor::{Shape, Weight};

/// The ONNX operators that a file of `op/` can read, each with its reader.
pub type Family = &'static [(&'static str, fn(&OnnxNode<'_>) -> Result<Meaning, Unreadable>)];

/// An operator of an ONNX file.
#[derive(Clone, Debug)]
pub struct OnnxNode<'a> {
    /// `op_type`.
    pub kind: &'a str,
    /// The layer's name in the teacher (`layer1.0.conv1`), for weights without a name of their own.
    pub module: &'a str,
    /// Its inputs, in ONNX's order.
    pub inputs: Vec<Input<'a>>,
    /// Its attributes.
    pub attributes: Vec<(&'a str, Attribute)>,
}

/// One input of an ONNX operator.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// An absent optional input.
    Absent,
    /// A value of the network, with its number of dimensions in ONNX, batch included.
    Value(Shape, usize),
    /// A constant of the file, or one computed from constants.
    Constant(&'a Tensor),
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name in the teacher, if it has one.
    pub name: Option<String>,
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// Row-major values.
    pub values: Numbers,
}

/// The values of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Floating-point values.
    Floats(Vec<f32>),
    /// Integers or bools.
    Ints(Vec<i64>),
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// `INT`.
    Int(i64),
    /// `INTS`.
    Ints(Vec<i64>),
    /// `FLOAT`.
    Float(f32),
    /// `STRING`.
    Text(String),
}

/// The translation of an ONNX operator: an [`Op`], its inputs, and its weights.
#[derive(Clone, Debug)]
pub struct Meaning {
    /// The operator.
    pub op: Op,
    /// Indices of its inputs among the ONNX operator's.
    pub inputs: Vec<usize>,
    /// Weights, in the order `op` documents.
    pub weights: Vec<Weight>,
    /// Axes of its first value that its result lacks in ONNX.
    pub dropped: Vec<usize>,
}

/// Why an ONNX operator cannot be read; the caller adds which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

/// An ONNX operator to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// `op_type`.
    pub kind: &'static str,
    /// Its inputs.
    pub inputs: Vec<Argument>,
    /// Its attributes.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// An input of a [`Step`].
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A value that the node reads.
    Value(usize),
    /// A weight of the node.
    Weight(usize),
    /// The result of an earlier step.
    Step(usize),
    /// A named list of integers.
    Ints(&'static str, Vec<i64>),
    /// A named scalar.
    Float(&'static str, f32),
}

impl Step {
    /// Creates a step.
    pub fn new(kind: &'static str, inputs: Vec<Argument>, attributes: Vec<(&'static str, Attribute)>) -> Self {
        Self { kind, inputs, attributes }
    }
}

impl Attribute {
    /// An attribute with a list of integers.
    pub(crate) fn ints<const N: usize>(values: [u16; N]) -> Self {
        Self::Ints(values.into_iter().map(i64::from).collect())
    }
}

/// The attributes that convolutions and pools share.
pub(crate) fn window_attributes(
    kernel: [u16; 2],
    stride: [u16; 2],
    padding: [u16; 4],
) -> Vec<(&'static str, Attribute)> {
    let of = Attribute::ints::<2>;
    vec![("kernel_shape", of(kernel)), ("strides", of(stride)), ("pads", Attribute::ints(padding))]
}

impl Meaning {
    /// An operator without weights that reads the first input.
    pub fn new(op: Op) -> Self {
        Self { op, inputs: vec![0], weights: Vec::new(), dropped: Vec::new() }
    }
}

/// A constant input of a node.
#[derive(Clone, Copy, Debug)]
pub struct Constant<'a> {
    node: &'a OnnxNode<'a>,
    tensor: &'a Tensor,
}

impl<'a> Constant<'a> {
    /// Extents.
    pub fn dims(&self) -> &'a [usize] {
        &self.tensor.dims
    }

    /// Converts it to a weight; `part` is its name within the layer if it has no name of its own.
    ///
    /// # Errors
    /// It holds integers, or does not have one to four dimensions.
    pub fn weight(&self, part: &str) -> Result<Weight, Unreadable> {
        let name = self.tensor.name.clone().unwrap_or_else(|| self.node.weight_name(part));
        let Numbers::Floats(data) = &self.tensor.values else {
            return Err(self.node.refuse(format_args!("its {part} holds integers")));
        };
        if !(1..=4).contains(&self.tensor.dims.len()) {
            let found = self.tensor.dims.len();
            return Err(self.node.refuse(format_args!("its {part} has {found} dimensions")));
        }
        Ok(Weight::new(name, &self.tensor.dims, data.clone()))
    }

    /// Its values as integers.
    pub fn ints(&self) -> Vec<i64> {
        match &self.tensor.values {
            Numbers::Ints(values) => values.clone(),
            Numbers::Floats(values) => values.iter().map(|&value| value as i64).collect(),
        }
    }

    /// Its value, if it has exactly one.
    pub fn scalar(&self) -> Option<f32> {
        match &self.tensor.values {
            Numbers::Floats(values) => (values.len() == 1).then(|| values[0]),
            Numbers::Ints(values) => (values.len() == 1).then(|| values[0] as f32),
        }
    }
}

impl OnnxNode<'_> {
    /// The error that it cannot be read, with the reason.
    pub fn refuse(&self, why: impl fmt::Display) -> Unreadable {
        Unreadable(why.to_string())
    }

    /// `module.part`.
    pub fn weight_name(&self, part: &str) -> String {
        format!("{}.{part}", self.module)
    }

    /// The required constant at input `slot`.
    ///
    /// # Errors
    /// There is no constant; `what` names it.
    pub fn constant(&self, slot: usize, what: &str) -> Result<Constant<'_>, Unreadable> {
        self.optional_constant(slot, what)?.ok_or_else(|| self.refuse(format_args!("it has no {what}")))
    }

    /// The optional constant at input `slot`.
    ///
    /// # Errors
    /// The input is not constant.
    pub fn optional_constant(&self, slot: usize, what: &str) -> Result<Option<Constant<'_>>, Unreadable> {
        match self.inputs.get(slot) {
            None | Some(Input::Absent) => Ok(None),
            Some(Input::Constant(tensor)) => Ok(Some(Constant { node: self, tensor })),
            Some(Input::Value(..)) => Err(self.refuse(format_args!("its {what} is computed from the network's input"))),
        }
    }

    /// Indices of a value and a constant, if it has one of each.
    pub fn value_and_constant(&self) -> Option<[usize; 2]> {
        match self.inputs.as_slice() {
            [Input::Value(..), Input::Constant(_)] => Some([0, 1]),
            [Input::Constant(_), Input::Value(..)] => Some([1, 0]),
            _ => None,
        }
    }

    /// The constant at input `constant`, as one number per channel of the value at input `value`.
    ///
    /// # Errors
    /// It does not have one number per channel.
    pub fn per_channel(&self, value: usize, constant: usize) -> Result<Vec<f32>, Unreadable> {
        let (channels, rank) = (self.shape(value)?.channels, self.rank(value)?);
        let Some(Input::Constant(tensor)) = self.inputs.get(constant) else { return Ok(Vec::new()) };
        let values = match &tensor.values {
            Numbers::Floats(values) => values.clone(),
            Numbers::Ints(values) => values.iter().map(|&value| value as f32).collect(),
        };
        if values.len() == 1 {
            return Ok(vec![values[0]; channels]);
        }
        // Extents are aligned at the last axis.
        let of_channel = |(axis, &extent): (usize, &usize)| extent == 1 || axis + rank == tensor.dims.len() + 1;
        let fits = tensor.dims.len() <= rank && tensor.dims.iter().enumerate().all(of_channel);
        if fits && values.len() == channels {
            return Ok(values);
        }
        Err(self.refuse(format_args!("its constant of {:?} is not one number for each channel", tensor.dims)))
    }

    /// Whether the value at input `slot` has one number per channel, and the other value has more.
    pub fn is_gate(&self, slot: usize) -> bool {
        let single = |slot: usize| self.shape(slot).is_ok_and(|shape| shape.height * shape.width == 1);
        single(slot) && !single(1 - slot)
    }

    /// Shape of the value at input `slot`.
    ///
    /// # Errors
    /// The input is not a value.
    pub fn shape(&self, slot: usize) -> Result<Shape, Unreadable> {
        self.value(slot).map(|(shape, _)| shape)
    }

    /// Number of dimensions of the value at input `slot`, batch included.
    ///
    /// # Errors
    /// The input is not a value.
    pub fn rank(&self, slot: usize) -> Result<usize, Unreadable> {
        self.value(slot).map(|(_, rank)| rank)
    }

    fn value(&self, slot: usize) -> Result<(Shape, usize), Unreadable> {
        match self.inputs.get(slot) {
            Some(&Input::Value(shape, rank)) => Ok((shape, rank)),
            _ => Err(self.refuse(format_args!("its input {slot} does not follow from the network's input"))),
        }
    }

    /// Converts an axis of the first input, which may be negative, to an index.
    ///
    /// # Errors
    /// The axis does not exist or is not supported.
    pub fn axis(&self, axis: i64) -> Result<usize, Unreadable> {
        let rank = self.rank(0)?.min(4);
        let place = if axis < 0 { axis + rank as i64 } else { axis };
        let place = usize::try_from(place).ok().filter(|&place| place < rank);
        place.ok_or_else(|| self.refuse(format_args!("there is no axis {axis}")))
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// An integer attribute, or `missing`.
    pub fn int(&self, name: &str, missing: i64) -> i64 {
        if let Some(Attribute::Int(value)) = self.attribute(name) { *value } else { missing }
    }

    /// A list attribute.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        if let Some(Attribute::Ints(values)) = self.attribute(name) { Some(values.clone()) } else { None }
    }

    /// A float attribute, or `missing`.
    pub fn float(&self, name: &str, missing: f32) -> f32 {
        if let Some(Attribute::Float(value)) = self.attribute(name) { *value } else { missing }
    }

    /// A text attribute, or `missing`.
    pub fn text(&self, name: &str, missing: &str) -> String {
        if let Some(Attribute::Text(value)) = self.attribute(name) { value.clone() } else { missing.to_owned() }
    }

    /// An attribute with one number for rows and one for columns, or `missing` for both.
    ///
    /// # Errors
    /// There are not two numbers, or they are out of range.
    pub fn pair(&self, name: &str, missing: u16) -> Result<[u16; 2], Unreadable> {
        match self.ints(name) {
            None => Ok([missing; 2]),
            Some(values) => self.small(&values, name),
        }
    }

    pub(super) fn small<const N: usize>(&self, values: &[i64], what: &str) -> Result<[u16; N], Unreadable> {
        let small: Option<Vec<u16>> = values.iter().map(|&value| u16::try_from(value).ok()).collect();
        let small = small.and_then(|small| <[u16; N]>::try_from(small).ok());
        small.ok_or_else(|| self.refuse(format_args!("its {what} {values:?} are not {N} numbers we can use")))
    }

    /// The window of a convolution or pool, for any of ONNX's padding modes. Rounding up becomes padding at the end.
    ///
    /// # Errors
    /// An attribute out of range.
    pub fn window(&self, taps: [usize; 2], dilation: [u16; 2]) -> Result<Window, Unreadable> {
        let (shape, stride) = (self.shape(0)?, self.pair("strides", 1)?);
        let kernel = self.small(&taps.map(|taps| taps as i64), "taps")?;
        let mut pads = match self.ints("pads") {
            Some(pads) => self.small::<4>(&pads, "pads")?.map(usize::from),
            None => [0; 4],
        };
        if stride.contains(&0) || dilation.contains(&0) || taps.contains(&0) {
            return Err(self.refuse("a stride, a dilation or its window is 0"));
        }
        let auto = self.text("auto_pad", "NOTSET");
        for (axis, size) in [shape.height, shape.width].into_iter().enumerate() {
            let (stride, reach) = (usize::from(stride[axis]), (taps[axis] - 1) * usize::from(dilation[axis]) + 1);
            let whole = |positions: usize| (positions - 1) * stride + reach;
            match auto.as_str() {
                "SAME_UPPER" | "SAME_LOWER" => {
                    let missing = whole(size.div_ceil(stride)).saturating_sub(size);
                    let less = missing / 2;
                    let upper = auto == "SAME_UPPER";
                    (pads[axis], pads[axis + 2]) = if upper { (less, missing - less) } else { (missing - less, less) };
                }
                "VALID" => (pads[axis], pads[axis + 2]) = (0, 0),
                _ => {}
            }
            let (room, begin) = (size + pads[axis] + pads[axis + 2], pads[axis]);
            if self.int("ceil_mode", 0) != 0 && room >= reach {
                let positions = (room - reach).div_ceil(stride) + 1;
                // A last window that starts after the value is dropped.
                let positions = if (positions - 1) * stride >= size + begin { positions - 1 } else { positions };
                pads[axis + 2] += whole(positions).saturating_sub(room);
            }
        }
        let padding = self.small(&pads.map(|pad| pad as i64), "pads")?;
        Ok(Window { kernel, stride, padding })
    }

    /// The same pool, with as many positions as fit.
    pub fn rounded_down(&self) -> Self {
        let mut down = self.clone();
        down.attributes.retain(|(name, _)| *name != "ceil_mode");
        down
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Unreadable {}
