//! The layout of a block: rows by depth, branches side by side.
//!
//! An operator that merely follows a layer (a batch norm, an activation or a pool that alone reads the layer's value) is
//! stacked under it. Stacks are in rows and lanes, the longest path in the first lane. A link runs down a free lane, or else
//! down a track at the right edge.

use std::collections::BTreeSet;

use super::{Colour, DrawnBlock, Edge};

pub(super) const BOX: i32 = 20;
/// Space between two rows, above the first and below the last.
const GAP: i32 = 18;
/// Space between text, lanes and tracks.
const MARGIN: i32 = 14;
/// Distance between two tracks.
const TRACK: i32 = 10;

pub(super) type Point = (i32, i32);

/// Widths that all blocks of a picture share.
#[derive(Clone, Copy)]
pub(super) struct Widths {
    /// The text at the left.
    pub text: i32,
    pub boxes: i32,
}

/// The layout of a block; its upper left corner is the origin.
pub(super) struct Layout {
    pub width: i32,
    pub height: i32,
    /// x of the block's input and output.
    pub axis: i32,
    /// Upper left corner of each operator's box.
    pub corners: Vec<Point>,
    pub routes: Vec<Route>,
    /// The line to the block's output.
    pub exit: Vec<Point>,
}

pub(super) struct Route {
    pub corners: Vec<Point>,
    pub shortcut: bool,
}

/// Operators directly under each other.
struct Stack {
    operators: Vec<usize>,
    row: usize,
    lane: usize,
}

/// A connection from a stack, or from the block's input, to a stack.
struct Link {
    from: Option<usize>,
    to: usize,
    shortcut: bool,
}

fn lane_left(widths: Widths, lane: usize) -> i32 {
    2 * MARGIN + widths.text + lane as i32 * (widths.boxes + MARGIN)
}

/// Lays out a block, with at least this height.
pub(super) fn layout(block: &DrawnBlock<'_>, widths: Widths, least_height: i32) -> Layout {
    let (mut stacks, links) = stack(block);
    let taken = assign_lanes(&mut stacks, &links);
    let rows = 1 + stacks.iter().map(|stack| stack.row).max().unwrap_or_default();
    let mut tops = vec![GAP];
    for row in 0..rows {
        let highest = stacks.iter().filter(|stack| stack.row == row).map(|stack| stack.operators.len()).max();
        tops.push(tops[row] + highest.unwrap_or_default() as i32 * BOX + GAP);
    }
    let height = tops[rows].max(least_height);
    let lanes = 1 + stacks.iter().map(|stack| stack.lane).max().unwrap_or_default();
    let mut router =
        Router { widths, taken, tops, stacks: &stacks, track_ends: Vec::new(), right: lane_left(widths, lanes) };
    let mut routes: Vec<Route> =
        links.iter().map(|link| Route { corners: router.route(link), shortcut: link.shortcut }).collect();
    // Shortcuts are drawn last, on top.
    routes.sort_by_key(|route| route.shortcut);
    let axis = router.centre(0);
    let (x, y) = stacks.last().map_or((axis, 0), |last| router.bottom(last));
    let exit = vec![(x, y), (x, y + GAP / 2), (axis, y + GAP / 2), (axis, height)];
    let tracks = router.track_ends.len() as i32;
    let mut corners = vec![(0, 0); block.operators.len()];
    for stack in &stacks {
        let (left, top) = (lane_left(widths, stack.lane), router.tops[stack.row]);
        for (place, &operator) in (0..).zip(&stack.operators) {
            corners[operator] = (left, top + place * BOX);
        }
    }
    Layout { width: router.right + tracks * TRACK, height, axis, corners, routes, exit }
}

fn stack(block: &DrawnBlock<'_>) -> (Vec<Stack>, Vec<Link>) {
    let (mut stacks, mut links): (Vec<Stack>, Vec<Link>) = (Vec::new(), Vec::new());
    let mut stack_of: Vec<usize> = Vec::new();
    for (index, operator) in block.operators.iter().enumerate() {
        let read: Vec<&Edge> = block.edges.iter().filter(|edge| edge.to == index).collect();
        let source = |edge: &Edge| edge.from.checked_sub(1).map(|node| stack_of[node]);
        let layer = matches!(operator.colour, Colour::Conv | Colour::GroupedConv | Colour::Linear);
        let sole = |edge: &Edge| block.edges.iter().filter(|other| other.from == edge.from).count() == 1;
        let under = match read.as_slice() {
            [edge] if !layer && sole(edge) => source(edge),
            _ => None,
        };
        let place = under.unwrap_or(stacks.len());
        if under.is_none() {
            let after = |edge: &&Edge| source(edge).map_or(0, |from| stacks[from].row + 1);
            let row = read.iter().map(after).max().unwrap_or_default();
            links.extend(read.iter().map(|edge| Link { from: source(edge), to: place, shortcut: edge.shortcut }));
            stacks.push(Stack { operators: Vec::new(), row, lane: 0 });
        }
        stacks[place].operators.push(index);
        stack_of.push(place);
    }
    (stacks, links)
}

/// Gives each stack a lane; returns the occupied rows and lanes.
fn assign_lanes(stacks: &mut [Stack], links: &[Link]) -> BTreeSet<(usize, usize)> {
    let leaves = |stack: usize| links.iter().filter(move |link| link.from == Some(stack));
    let beside = |&stack: &usize| leaves(stack).next().is_some() && leaves(stack).all(|link| link.shortcut);
    // The main path first.
    let mut order: Vec<usize> = (0..stacks.len()).collect();
    order.sort_by_key(beside);
    let mut taken = BTreeSet::new();
    for stack in order {
        let least = usize::from(beside(&stack));
        let row = stacks[stack].row;
        let above =
            links.iter().filter(|link| link.to == stack).map(|link| link.from.map_or(0, |from| stacks[from].lane));
        let near = above.min().map_or(least, |lane| lane.max(least));
        let free = std::iter::once(near).chain(least..).find(|&lane| !taken.contains(&(row, lane)));
        stacks[stack].lane = free.unwrap_or(near);
        taken.insert((row, stacks[stack].lane));
    }
    taken
}

/// Finds lines between stacks that cross no box.
struct Router<'a> {
    widths: Widths,
    taken: BTreeSet<(usize, usize)>,
    /// Top of each row, and the end of the last.
    tops: Vec<i32>,
    stacks: &'a [Stack],
    /// The row in which the last link on each track leaves it.
    track_ends: Vec<usize>,
    /// x of the first track.
    right: i32,
}

impl Router<'_> {
    fn centre(&self, lane: usize) -> i32 {
        lane_left(self.widths, lane) + self.widths.boxes / 2
    }

    fn bottom(&self, stack: &Stack) -> Point {
        (self.centre(stack.lane), self.tops[stack.row] + stack.operators.len() as i32 * BOX)
    }

    /// Whether a lane is free in `rows`.
    fn free(&self, lane: usize, mut rows: impl Iterator<Item = usize>) -> bool {
        rows.all(|row| !self.taken.contains(&(row, lane)))
    }

    fn route(&mut self, link: &Link) -> Vec<Point> {
        let to = &self.stacks[link.to];
        let from = link.from.map(|from| &self.stacks[from]);
        let (lane, start) = from.map_or((0, (self.centre(0), 0)), |from| (from.lane, self.bottom(from)));
        // The first row below the start, and the middle of the gap above it.
        let below = from.map_or(0, |from| from.row + 1);
        let gap = self.tops[below] - GAP / 2;
        let (centre, top) = (self.centre(to.lane), self.tops[to.row]);
        let middle = top + BOX / 2;
        let (left, right) = (lane_left(self.widths, to.lane), lane_left(self.widths, to.lane) + self.widths.boxes);
        if lane == to.lane && self.free(lane, below..to.row) {
            return vec![start, (centre, top)];
        }
        // Down its own lane, and in from the side.
        let between = || (lane.min(to.lane) + 1)..lane.max(to.lane);
        if lane != to.lane
            && from.is_some()
            && self.free(lane, below..to.row + 1)
            && between().all(|l| self.free(l, to.row..to.row + 1))
        {
            return vec![start, (start.0, middle), (if lane > to.lane { right } else { left }, middle)];
        }
        // Across, then down the other lane.
        if self.free(to.lane, below..to.row) {
            return vec![start, (start.0, gap), (centre, gap), (centre, top)];
        }
        let track = self.track_ends.iter().position(|&end| end < below).unwrap_or(self.track_ends.len());
        if track == self.track_ends.len() {
            self.track_ends.push(0);
        }
        self.track_ends[track] = to.row;
        let x = self.right + track as i32 * TRACK;
        let mut route = vec![start, (start.0, gap), (x, gap)];
        let beyond = self.taken.range((to.row, to.lane + 1)..(to.row + 1, 0)).next().is_some();
        if beyond {
            route.extend([(x, top - GAP / 2), (centre + MARGIN, top - GAP / 2), (centre + MARGIN, top)]);
        } else {
            route.extend([(x, middle), (right, middle)]);
        }
        route
    }
}
