//! Narrower students: the bottleneck multiplier `k` of the paper (section 3).
//!
//! Channels that must be kept or removed together (because of additions, pointwise operators, depthwise convolutions,
//! gates, slices and concatenations) form one class. The classes of a layer's outputs form a group, together with those
//! of layers they share classes with. The inputs and outputs of one group of a grouped convolution form one class: such
//! groups leave whole. Groups of classes that reach the block's input or output are kept whole; every other one keeps
//! its strongest [`Width::of_units`] classes. The block's input and output shapes never change.

use alloc::{vec, vec::Vec};

use crate::{
    block::{
        Block, BlockError, Change,
        op::{Channels, Operands},
    },
    recipe::Width,
    tensor::Weight,
};

/// Keeps the strongest inner channels of a folded block.
///
/// A channel's strength is ‖w_in‖·‖w_out‖: the norm of the weights that write it times the norm of those that read it.
///
/// # Errors
/// As [`Block::new`]; a valid block shrinks to a valid block.
pub fn shrink(block: &Block, width: Width) -> Result<Block, BlockError> {
    shrink_rounded(block, width, 1)
}

/// [`shrink`] to channel counts that are multiples of `round_to`, where a width below 1 changes them.
pub fn shrink_rounded(block: &Block, width: Width, round_to: usize) -> Result<Block, BlockError> {
    let classes = ChannelClasses::of(block);
    classes.narrowed(block, &classes.strongest(block, width, round_to))
}

/// The number of channels in each group that a width below 1 shrinks, in graph order.
pub fn inner_channels(block: &Block) -> Vec<usize> {
    if !block.parts().is_empty() {
        let parts = block.parts().iter().filter_map(|&part| block.part(part).ok());
        return parts.flat_map(|part| inner_channels(&part)).collect();
    }
    let classes = ChannelClasses::of(block);
    classes.inner_groups().map(|group| group.iter().map(|&class| classes.sizes[class]).sum()).collect()
}

/// For each node, whether a width below 1 shrinks its output channels.
pub fn inner_nodes(block: &Block) -> Vec<bool> {
    if !block.parts().is_empty() {
        let mut inner = vec![false; block.nodes().len()];
        for &part in block.parts() {
            let (Ok(nodes), Ok(part)) = (block.part_nodes(part), block.part(part)) else { continue };
            nodes.into_iter().zip(inner_nodes(&part)).for_each(|(node, shrinks)| inner[node] = shrinks);
        }
        return inner;
    }
    let classes = ChannelClasses::of(block);
    let inner = |value: &Vec<usize>| value.iter().any(|&class| classes.group[class].is_some());
    classes.of_value.iter().skip(1).map(inner).collect()
}

/// The origin of the channels of node `index`'s output.
fn channels(block: &Block, index: usize) -> Channels {
    let (inputs, weights) = (block.inputs_of(index), block.weights_of(index));
    block.nodes()[index].op.operator().channels(&Operands { node: "", inputs: &inputs, weights: &weights })
}

/// The classes of channels that are kept or removed together.
pub struct ChannelClasses {
    /// The class of every channel of every value.
    of_value: Vec<Vec<usize>>,
    /// The group of each class; `None` if the class was merged into another or must stay.
    group: Vec<Option<usize>>,
    /// For each class, how many channels it has in the first value that it is part of.
    sizes: Vec<usize>,
}

impl ChannelClasses {
    /// The channel classes of a block.
    pub fn of(block: &Block) -> Self {
        // One set per newly created channel, and one per value with such channels.
        let (mut classes, mut origins) = (Sets::default(), Sets::default());
        let (mut origin_of, mut stays) = (Vec::new(), Vec::new());
        let mut make = |classes: &mut Sets, origin: usize, count: usize| -> Vec<usize> {
            origin_of.resize(origin_of.len() + count, origin);
            (0..count).map(|_| classes.add()).collect()
        };
        origins.add();
        let mut of_value = vec![make(&mut classes, 0, block.input().channels)];
        stays.extend(of_value[0].iter().copied());
        for (index, node) in block.nodes().iter().enumerate() {
            let (origin, count) = (origins.add(), block.shape(index + 1).channels);
            let mut inputs = node.inputs.iter().map(|&value| &of_value[usize::from(value)]);
            let Some(first) = inputs.next() else { continue };
            let found = match channels(block, index) {
                Channels::New => make(&mut classes, origin, count),
                Channels::Same => {
                    inputs.for_each(|other| first.iter().zip(other).for_each(|(&a, &b)| classes.join(a, b)));
                    first.clone()
                }
                Channels::Joined => first.iter().chain(inputs.flatten()).copied().collect(),
                Channels::Selected { first: start, count } => first[start..start + count].to_vec(),
                Channels::Padded { before, after } => {
                    let mut padded = make(&mut classes, origin, before);
                    padded.extend(first);
                    padded.extend(make(&mut classes, origin, after));
                    stays.extend(padded.iter().take(before).chain(padded.iter().rev().take(after)));
                    padded
                }
                Channels::Repeated(times) => {
                    first.iter().flat_map(|&class| core::iter::repeat_n(class, times)).collect()
                }
                Channels::Grouped(groups) => {
                    let (of_input, of_output) = (first.len() / groups, count / groups);
                    let inputs = first.chunks_exact(of_input);
                    inputs.for_each(|group| group.iter().for_each(|&class| classes.join(group[0], class)));
                    let first_of_groups = first.iter().step_by(of_input);
                    first_of_groups.flat_map(|&class| core::iter::repeat_n(class, of_output)).collect()
                }
                Channels::Fixed => {
                    let made = make(&mut classes, origin, count);
                    stays.extend(first.iter().chain(&made));
                    made
                }
            };
            of_value.push(found);
        }
        stays.extend(of_value.iter().last().into_iter().flatten());
        of_value.iter_mut().flatten().for_each(|class| *class = classes.first(*class));
        (0..origin_of.len()).for_each(|class| origins.join(origin_of[class], origin_of[classes.first(class)]));
        // A group with one channel that must stay is kept whole.
        let mut fixed = vec![false; origins.0.len()];
        stays.into_iter().for_each(|class| fixed[origins.first(origin_of[class])] = true);
        let group = |class: usize| {
            let origin = origins.first(origin_of[class]);
            (classes.first(class) == class && !fixed[origin]).then_some(origin)
        };
        let mut sizes = vec![0; origin_of.len()];
        for (class, origin) in origin_of.iter().enumerate() {
            let first = classes.first(class);
            sizes[first] += usize::from(*origin == origin_of[first]);
        }
        Self { of_value, group: (0..origin_of.len()).map(group).collect(), sizes }
    }

    /// The classes of each group that may shrink.
    fn inner_groups(&self) -> impl Iterator<Item = Vec<usize>> {
        let members = move |group| (0..self.group.len()).filter(|&class| self.group[class] == Some(group)).collect();
        (0..self.of_value.len()).map(members).filter(|group: &Vec<usize>| !group.is_empty())
    }

    /// Removes the classes that are not kept.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn narrowed(&self, block: &Block, keeps: &[bool]) -> Result<Block, BlockError> {
        let kept = |value: usize| -> Vec<usize> {
            let of_value = &self.of_value[value];
            (0..of_value.len()).filter(|&channel| keeps[of_value[channel]]).collect()
        };
        let rewritten = block.rewrite(|index| {
            let node = &block.nodes()[index];
            let input = usize::from(node.inputs[0]);
            let (read, written) = (kept(input), kept(index + 1));
            let narrower = read.len() < block.shape(input).channels || written.len() < block.shape(index + 1).channels;
            let (inputs, weights) = (block.inputs_of(index), block.weights_of(index));
            let given = Operands { node: "", inputs: &inputs, weights: &weights };
            let op = node.op.operator().narrowed(&given, &read, &written).filter(|_| narrower);
            // Only the kernel of a dense layer has a dimension for input channels.
            let dense = channels(block, index) == Channels::New;
            let narrowed = |(slot, weight): (usize, &Weight)| {
                weight.select(Some(&written), Some(read.as_slice()).filter(|_| dense && slot == 0))
            };
            let weights = weights.iter().copied().enumerate().map(narrowed).collect();
            Change::Replace(op.unwrap_or_else(|| node.op.clone()), weights)
        });
        rewritten?.with_parts(block.parts())
    }

    /// The class of each channel of a value.
    pub fn of_value(&self, value: usize) -> &[usize] {
        &self.of_value[value]
    }

    /// The largest number of a value's channels in one class.
    pub fn together(&self, value: usize) -> usize {
        let mut counts = vec![0; self.group.len()];
        self.of_value[value].iter().for_each(|&class| counts[class] += 1);
        counts.into_iter().max().unwrap_or(0)
    }

    /// Whether some classes may be removed.
    pub fn has_inner(&self) -> bool {
        self.group.iter().any(Option::is_some)
    }

    /// Whether removing this class from the `kept` ones would leave a value without channels.
    pub fn is_last(&self, class: usize, kept: &[bool]) -> bool {
        let others = |value: &[usize]| value.iter().any(|&other| other != class && kept[other]);
        self.of_value.iter().any(|value| value.contains(&class) && !others(value))
    }

    /// The group number of a class; `None` if the class cannot be removed.
    pub fn group(&self, class: usize) -> Option<usize> {
        self.group[class]
    }

    /// For each class, whether it is kept: the strongest of each group, whose channels are a multiple of `round_to`.
    pub fn strongest(&self, block: &Block, width: Width, round_to: usize) -> Vec<bool> {
        let mut keeps = vec![true; self.group.len()];
        let strength = self.strengths(block);
        for mut group in self.inner_groups() {
            group.sort_by(|&a, &b| strength[b].total_cmp(&strength[a]).then(a.cmp(&b)));
            // All classes of a group have as many channels, except after concatenations of grouped convolutions.
            let size = self.sizes[group[0]];
            let unit = round_to / common_divisor(round_to, size);
            group[width.of_units(group.len(), unit)..].iter().for_each(|&class| keeps[class] = false);
        }
        // A value that holds only part of a group keeps at least one channel, too.
        for value in &self.of_value {
            let strongest = value.iter().copied().max_by(|&a, &b| strength[a].total_cmp(&strength[b]));
            if let Some(class) = strongest.filter(|_| !value.iter().any(|&class| keeps[class])) {
                keeps[class] = true;
            }
        }
        keeps
    }

    /// ‖w_in‖²·‖w_out‖² of each class, which has the same order as the strength.
    fn strengths(&self, block: &Block) -> Vec<f32> {
        let (mut written, mut read) = (vec![0.0f32; self.group.len()], vec![0.0f32; self.group.len()]);
        for (index, node) in block.nodes().iter().enumerate() {
            let Some(kernel) = block.weight(index, 0).filter(|weight| weight.dims.len() >= 2) else { continue };
            let inputs = kernel.dims[1] as usize;
            let area = kernel.data.len() / (kernel.dims[0] as usize * inputs);
            let dense = channels(block, index) == Channels::New;
            let (from, to) = (&self.of_value[usize::from(node.inputs[0])], &self.of_value[index + 1]);
            for (position, tap) in kernel.data.chunks_exact(area).enumerate() {
                let energy: f32 = tap.iter().map(|w| w * w).sum();
                written[to[position / inputs]] += energy;
                if dense {
                    read[from[position % inputs]] += energy;
                }
            }
        }
        written.iter().zip(&read).map(|(w, r)| w * r).collect()
    }
}

/// The greatest common divisor of two numbers above 0.
fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Disjoint sets of numbers, each represented by its smallest member.
#[derive(Default)]
struct Sets(Vec<usize>);

impl Sets {
    /// Adds a set with one new number.
    fn add(&mut self) -> usize {
        self.0.push(self.0.len());
        self.0.len() - 1
    }

    /// The smallest member of a set.
    fn first(&self, mut member: usize) -> usize {
        while self.0[member] != member {
            member = self.0[member];
        }
        member
    }

    /// Merges two sets.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }
}
