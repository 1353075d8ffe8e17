//! What a whole network learns from: images, and their classes where they have any.

use alloc::{vec, vec::Vec};
use core::fmt;

use crate::{
    inputs::{NoiseImages, Pixels, Variant},
    storage::ScratchError,
    stream::{Stream, shuffle},
    tensor::Shape,
};

/// Images to train a network on, each in a new variant whenever it is shown.
pub trait Lessons: fmt::Debug {
    /// Number of images, each of which is shown once in an epoch; 0 if they are made for every step.
    fn images(&self) -> usize;

    /// Appends a variant of each of these images, as values of the network's input: `[N, C, H, W]`.
    ///
    /// # Errors
    /// The images' own, such as a file that cannot be read.
    fn draw(&self, images: &[usize], stream: &mut Stream, values: &mut Vec<f32>) -> Result<(), ScratchError>;

    /// Index of each image's class; empty if they have none.
    fn labels(&self) -> &[u16] {
        &[]
    }
}

/// `N(0, 1)` in every pixel of images of this shape, drawn anew for every step.
#[derive(Clone, Copy, Debug)]
pub struct WhiteLessons(pub Shape);

impl Lessons for WhiteLessons {
    fn images(&self) -> usize {
        0
    }

    fn draw(&self, images: &[usize], stream: &mut Stream, values: &mut Vec<f32>) -> Result<(), ScratchError> {
        values.extend(stream.images(images.len(), self.0));
        Ok(())
    }
}

/// [`Variant`]s of noise images.
#[derive(Clone, Copy, Debug)]
pub struct NoiseLessons<'a> {
    /// The images.
    pub images: &'a NoiseImages,
    /// The teacher's normalisation of pixels.
    pub pixels: &'a Pixels,
    /// Number of images to use, from the first; at least 1.
    pub seen: usize,
}

impl Lessons for NoiseLessons<'_> {
    fn images(&self) -> usize {
        self.seen
    }

    fn draw(&self, images: &[usize], stream: &mut Stream, values: &mut Vec<f32>) -> Result<(), ScratchError> {
        let shape = self.images.shape();
        let elements = shape.elements();
        let [mut image, mut other] = [(); 2].map(|()| vec![0.0; elements]);
        let mut varied = Vec::with_capacity(elements);
        for &index in images {
            for (index, values) in [index, stream.below(self.seen)].into_iter().zip([&mut image, &mut other]) {
                self.pixels.values(&self.images.pixels()[index * elements..][..elements], shape, values);
            }
            Variant::draw(stream, shape).of(&image, &other, shape, &mut varied);
            values.extend_from_slice(&varied);
        }
        Ok(())
    }
}

/// Draws batches of lessons, in a new order in each epoch.
#[derive(Debug)]
pub(super) struct Drawn<'a> {
    lessons: &'a dyn Lessons,
    pub stream: Stream,
    /// The rest of an epoch's order.
    pub order: Vec<usize>,
    /// The images of the batch, and their values.
    pub images: Vec<usize>,
    pub values: Vec<f32>,
}

impl<'a> Drawn<'a> {
    pub fn new(lessons: &'a dyn Lessons, stream: Stream) -> Self {
        Self { lessons, stream, order: Vec::new(), images: Vec::new(), values: Vec::new() }
    }

    /// Continues from the rest of an epoch; returns whether it is one of these lessons'.
    pub fn restore(&mut self, stream: Stream, order: Vec<u32>) -> bool {
        let count = self.lessons.images();
        let fits = order.len() <= count && order.iter().all(|&image| (image as usize) < count);
        if fits {
            (self.stream, self.order) = (stream, order.into_iter().map(|image| image as usize).collect());
        }
        fits
    }

    /// Draws a batch.
    pub fn next(&mut self, count: usize) -> Result<(), ScratchError> {
        let Self { lessons, stream, order, images, values } = self;
        images.clear();
        values.clear();
        while images.len() < count {
            if order.is_empty() {
                shuffle(stream, order, lessons.images());
            }
            images.push(order.pop().unwrap_or(0));
        }
        lessons.draw(images, stream, values)
    }
}
