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
            let in_place = match node.op.operator().on_cpu() {
                OnCpu::Clamp(_) | OnCpu::Add => true,
                OnCpu::Norm(_) => !training,
                OnCpu::Plain(plain) => !training && plain.in_place(),
                OnCpu::Convolution(_) => false,
            };
            let twice = node.inputs.len() == 2 && node.inputs[0] == node.inputs[1];
            let needed_later = |value: usize| {
                let read_back = |node: &Node| match node.op.operator().on_cpu() {
                    OnCpu::Convolution(_) | OnCpu::Norm(_) => true,
                    OnCpu::Plain(plain) => plain.kept().inputs,
                    OnCpu::Clamp(_) | OnCpu::Add => false,
                };
                let own = match nodes[value - 1].op.operator().on_cpu() {
                    OnCpu::Clamp(_) => true,
                    OnCpu::Plain(plain) => plain.kept().output,
                    _ => false,
                };
                training && (own || readers(value).any(|(_, node)| read_back(node)))
            };
            let free = |value: &usize| *value > 0 && last_reader[*value] == index && !needed_later(*value);
            // A sum may lie in the place of either value, everything else in that of the first.
            let places = if matches!(node.op, Op::Add) { 2 } else { 1 };
            let place = node.inputs.iter().take(places).map(|&value| usize::from(value)).find(free);
            if let Some(value) = place.filter(|_| in_place && !twice) {
                chain[index + 1] = chain[value];
            }
        }
        let plane = |first: usize| {
            let members = (0..=last).filter(|&value| chain[value] == first);
            let padding = |value: usize| {
                block.nodes().iter().filter(move |node| usize::from(node.inputs[0]) == value).map(|node| {
                    match node.op {
                        Op::Conv(conv) => conv.border(),
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
        let clamped = (0..last).map(|index| {
            let mut readers = readers(index + 1);
            let (Some((reader, node)), None) = (readers.next(), readers.next()) else { return None };
            let OnCpu::Clamp(bounds) = node.op.operator().on_cpu() else { return None };
            let clamps = matches!(nodes[index].op.operator().on_cpu(), OnCpu::Convolution(_) | OnCpu::Add);
            (clamps && chain[reader + 1] == chain[index + 1]).then_some(bounds)
        });
        let clamped = clamped.collect();
        Self { slots, slot, clamped }
    }
}
