//! Where the values of a block lie while one group of images goes through it.

use alloc::{vec, vec::Vec};
use core::ops::Range;

use crate::{
    block::{Block, Op},
    heap::held,
    kernels::{
        elementwise::{Read, Write},
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

    /// One slot to write and another to read.
    pub fn pair<'a>(&self, arena: &'a mut [Lanes], [write, read]: [usize; 2]) -> (Write<'a>, Read<'a>) {
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

/// Slots of a block's values, up to the last that is computed.
#[derive(Clone, Debug)]
pub struct Layout {
    pub slots: Slots,
    /// Slot of each value. Operators that may work in place share their input's.
    pub slot: Vec<usize>,
    /// Nodes whose ReLU is done with them: it is the only reader, and in place.
    pub followed_by_relu: Vec<bool>,
}

impl Layout {
    /// Heap bytes of the description.
    pub fn heap_bytes(&self) -> usize {
        self.slots.heap_bytes() + held(&self.slot) + held(&self.followed_by_relu)
    }

    /// Lays out values `0..=last`. For training every value that a gradient needs is kept, otherwise slots are used again.
    pub fn new(block: &Block, last: usize, training: bool) -> Self {
        let nodes = &block.nodes()[..last];
        let readers = |value: usize| {
            nodes.iter().enumerate().filter(move |(_, node)| node.inputs.iter().any(|&read| usize::from(read) == value))
        };
        let last_reader: Vec<usize> = (0..=last)
            .map(|value| if value == last { usize::MAX } else { readers(value).map(|(i, _)| i).max().unwrap_or(0) })
            .collect();
        // Chains of values in one place, named by their first.
        let mut chain: Vec<usize> = (0..=last).collect();
        for (index, node) in nodes.iter().enumerate() {
            let elementwise =
                matches!(node.op, Op::Relu | Op::Add) || matches!(node.op, Op::BatchNorm { .. }) && !training;
            let twice = node.inputs.len() == 2 && node.inputs[0] == node.inputs[1];
            // Backward passes read the inputs of convolutions and batch norms, and the outputs of ReLUs.
            let needed_later = |value: usize| {
                let read = |op: &Op| matches!(op, Op::Conv(_) | Op::Linear | Op::BatchNorm { .. });
                training && (readers(value).any(|(_, node)| read(&node.op)) || matches!(nodes[value - 1].op, Op::Relu))
            };
            let free = |value: &usize| *value > 0 && last_reader[*value] == index && !needed_later(*value);
            let place = node.inputs.iter().map(|&value| usize::from(value)).find(free);
            if let Some(value) = place.filter(|_| elementwise && !twice) {
                chain[index + 1] = chain[value];
            }
        }
        let plane = |first: usize| {
            let members = (0..=last).filter(|&value| chain[value] == first);
            let padding = |value: usize| {
                block.nodes().iter().filter(move |node| usize::from(node.inputs[0]) == value).map(|node| {
                    match node.op {
                        Op::Conv(conv) => usize::from(conv.padding),
                        _ => 0,
                    }
                })
            };
            Plane { shape: block.shape(first), border: members.flat_map(padding).max().unwrap_or(0) }
        };
        let (mut slots, mut slot) = (Slots::default(), vec![0; last + 1]);
        // For each slot, the node after which it is free.
        let mut busy: Vec<usize> = Vec::new();
        for value in 0..=last {
            if chain[value] != value {
                slot[value] = slot[chain[value]];
                continue;
            }
            let end = (value..=last).filter(|&v| chain[v] == value).map(|v| last_reader[v]).max().unwrap_or(0);
            let wanted = plane(value);
            let free = |&slot: &usize| value > 0 && busy[slot] < value - 1 && slots.plane(slot) == wanted;
            slot[value] = match (0..busy.len()).find(free).filter(|_| !training) {
                Some(slot) => slot,
                None => {
                    busy.push(0);
                    slots.push(wanted)
                }
            };
            busy[slot[value]] = end;
        }
        let followed_by_relu = (0..last).map(|index| {
            let mut readers = readers(index + 1);
            let (Some((reader, node)), None) = (readers.next(), readers.next()) else { return false };
            let in_place = matches!(node.op, Op::Relu) && chain[reader + 1] == chain[index + 1];
            in_place && matches!(nodes[index].op, Op::Conv(_) | Op::Linear | Op::Add)
        });
        let followed_by_relu = followed_by_relu.collect();
        Self { slots, slot, followed_by_relu }
    }
}
