//! Where the values of a block lie while one group of images goes through it.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{
    block::{
        Block, Node,
        op::{OnCpu, Op},
    },
    heap::held,
    kernels::{
        elementwise::{Bounds, Read, Write},
        plane::{Lanes, Plane},
    },
};

/// Planes one behind the other in an arena.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    planes: Vec<Plane>,
    starts: Vec<usize>,
    len: usize,
}

impl Slots {
    pub fn push(&mut self, plane: Plane) -> usize {
        self.planes.push(plane);
        self.starts.push(self.len);
        self.len += plane.len();
        self.planes.len() - 1
    }

    /// Heap bytes of the description, not of what lies there.
    pub fn heap_bytes(&self) -> usize {
        held(&self.planes) + held(&self.starts)
    }

    /// Vectors in all.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn plane(&self, slot: usize) -> Plane {
        self.planes[slot]
    }

    fn range(&self, slot: usize) -> Range<usize> {
        self.starts[slot]..self.starts[slot] + self.planes[slot].len()
    }

    pub fn get<'a>(&self, arena: &'a [Lanes], slot: usize) -> Read<'a> {
        (&arena[self.range(slot)], self.planes[slot])
    }

    pub fn get_mut<'a>(&self, arena: &'a mut [Lanes], slot: usize) -> Write<'a> {
        (&mut arena[self.range(slot)], self.planes[slot])
    }

    /// One slot to write and two to read, which are `None` where they are the one to write.
    pub fn open<'a>(
        &self,
        arena: &'a mut [Lanes],
        write: usize,
        read: [usize; 2],
    ) -> (Write<'a>, [Option<Read<'a>>; 2]) {
        let Range { start, end } = self.range(write);
        let (before, rest) = arena.split_at_mut(start);
        let (to, after) = rest.split_at_mut(end - start);
        let (before, after) = (&*before, &*after);
        let values = |slot: usize| {
            let range = self.range(slot);
            let values = if range.end <= start { &before[range] } else { &after[range.start - end..range.end - end] };
            (values, self.planes[slot])
        };
        ((to, self.planes[write]), read.map(|slot| (slot != write).then(|| values(slot))))
    }

    /// One slot to write and another to read.
    pub fn pair<'a>(&self, arena: &'a mut [Lanes], Pair { write, read }: Pair) -> (Write<'a>, Read<'a>) {
        let [to, from] = arena
            .get_disjoint_mut([self.range(write), self.range(read)])
            .expect("two slots never overlap, and the arena holds all");
        ((to, self.planes[write]), (from, self.planes[read]))
    }

    /// Writes the zeros around every plane: an arena may have served another block.
    pub fn clear_borders(&self, arena: &mut [Lanes]) {
        for slot in 0..self.planes.len() {
            let (values, plane) = self.get_mut(arena, slot);
            plane.clear_border(values);
        }
    }
}

/// A slot to write and another to read.
#[derive(Clone, Copy)]
pub struct Pair {
    pub write: usize,
    pub read: usize,
}

/// Slots of a block's values, up to the last that is computed.
#[derive(Clone, Debug)]
pub struct Layout {
    pub slots: Slots,
    /// Slot of each value. Operators that may work in place share their input's.
    pub slot: Vec<usize>,
    /// The bounds of a clamp that is done with a node: it is the only reader, and in place.
    pub clamped: Vec<Option<Bounds>>,
}

impl Layout {
    /// Heap bytes of the description.
    pub fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + held(&self.slot) + held(&self.clamped)
    }

    /// Lays out values `0..=last`. For training every value that a gradient needs is kept, otherwise slots are used again.
    pub fn new(block: &Block, last: usize, training: bool) -> Self {
        let chains = Chains::new(block, last, training);
        let (mut slots, mut slot) = (Slots::default(), vec![0; last + 1]);
        // For each slot, the node after which it is free.
        let mut busy: Vec<usize> = Vec::new();
        for value in 0..=last {
            let first = chains.first[value];
            if first != value {
                slot[value] = slot[first];
                continue;
            }
            let wanted = chains.plane(value);
            let free = |&slot: &usize| value > 0 && busy[slot] < value - 1 && slots.plane(slot) == wanted;
            slot[value] = match (0..busy.len()).find(free).filter(|_| !training) {
                Some(slot) => slot,
                None => {
                    busy.push(0);
                    slots.push(wanted)
                }
            };
            busy[slot[value]] = chains.last_reader(value);
        }
        Self { slots, slot, clamped: (0..last).map(|node| chains.clamp_after(node)).collect() }
    }
}

/// Which values share a place.
struct Chains<'a> {
    block: &'a Block,
    nodes: &'a [Node],
    training: bool,
    /// For each value the first one of its place.
    first: Vec<usize>,
    /// For each value the last node that reads it.
    last_reader: Vec<usize>,
}

impl<'a> Chains<'a> {
    fn new(block: &'a Block, last: usize, training: bool) -> Self {
        let nodes = &block.nodes()[..last];
        let last_reader = |value: usize| block.readers(value).take_while(|&node| node < last).last().unwrap_or(0);
        let last_reader = (0..last).map(last_reader).chain([usize::MAX]).collect();
        let mut chains = Self { block, nodes, training, first: (0..=last).collect(), last_reader };
        for node in 0..last {
            if let Some(value) = chains.place(node) {
                chains.first[node + 1] = chains.first[value];
            }
        }
        chains
    }

    /// The input in whose place a node may write.
    fn place(&self, index: usize) -> Option<usize> {
        let node = &self.nodes[index];
        let in_place = match node.op.operator().on_cpu() {
            OnCpu::Clamp(_) | OnCpu::Add => true,
            OnCpu::Norm(_) => !self.training,
            OnCpu::Plain(plain) => !self.training && plain.in_place(),
            OnCpu::Convolution(_) => false,
        };
        let twice = node.inputs.len() == 2 && node.inputs[0] == node.inputs[1];
        let free = |value: &usize| *value > 0 && self.last_reader[*value] == index && !self.is_kept(*value);
        // A sum may lie in the place of either value, everything else in that of the first.
        let places = if matches!(node.op, Op::Add) { 2 } else { 1 };
        let place = node.inputs.iter().take(places).map(|&value| usize::from(value)).find(free);
        place.filter(|_| in_place && !twice)
    }

    /// Whether a gradient needs a value.
    fn is_kept(&self, value: usize) -> bool {
        let read_back = |node: &Node| match node.op.operator().on_cpu() {
            OnCpu::Convolution(_) | OnCpu::Norm(_) => true,
            OnCpu::Plain(plain) => plain.kept().inputs,
            OnCpu::Clamp(_) | OnCpu::Add => false,
        };
        let own = match self.nodes[value - 1].op.operator().on_cpu() {
            OnCpu::Clamp(_) => true,
            OnCpu::Plain(plain) => plain.kept().output,
            _ => false,
        };
        self.training && (own || self.readers(value).any(|node| read_back(&self.nodes[node])))
    }

    fn readers(&self, value: usize) -> impl Iterator<Item = usize> {
        self.block.readers(value).take_while(|&node| node < self.nodes.len())
    }

    /// Values of the place that begins with `first`.
    fn members(&self, first: usize) -> impl Iterator<Item = usize> {
        (first..self.first.len()).filter(move |&value| self.first[value] == first)
    }

    /// The last node that reads a place.
    fn last_reader(&self, first: usize) -> usize {
        self.members(first).map(|value| self.last_reader[value]).max().unwrap_or(0)
    }

    /// How a place lies, with the border that the convolutions that read it ask for.
    fn plane(&self, first: usize) -> Plane {
        let border = |node: usize| match self.block.nodes()[node].op {
            Op::Conv(conv) => conv.border(),
            _ => 0,
        };
        let readers = self.members(first).flat_map(|value| self.block.readers(value));
        Plane { shape: self.block.shape(first), border: readers.map(border).max().unwrap_or(0) }
    }

    /// The bounds of a clamp that is done with a node: it alone reads it, and in place.
    fn clamp_after(&self, node: usize) -> Option<Bounds> {
        let mut readers = self.readers(node + 1);
        let (Some(reader), None) = (readers.next(), readers.next()) else { return None };
        let OnCpu::Clamp(bounds) = self.nodes[reader].op.operator().on_cpu() else { return None };
        let clamps = matches!(self.nodes[node].op.operator().on_cpu(), OnCpu::Convolution(_) | OnCpu::Add);
        (clamps && self.first[reader + 1] == self.first[node + 1]).then_some(bounds)
    }
}
