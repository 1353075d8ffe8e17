//! Batches of images, each on the device that computes with it.

#[cfg(feature = "burn")]
use alloc::boxed::Box;
use alloc::{borrow::Cow, vec, vec::Vec};

#[cfg(feature = "burn")]
use crate::engine::burn::BurnBatch;
use crate::{
    engine::{Device, cpu::Groups},
    kernels::plane::{LANES, Lanes},
    tensor::Shape,
};

/// A batch `[N, C, H, W]`: inputs, targets or outputs of a block. Its values lie on one device, in the layout that
/// computes fastest there.
#[derive(Clone, Debug)]
pub struct Batch(pub(super) On);

#[derive(Clone, Debug)]
pub(super) enum On {
    Cpu(Groups),
    #[cfg(feature = "burn")]
    Burn(Box<BurnBatch>),
}

/// Sums over the elements of outputs and their targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    /// `Σ (output − target)²`.
    pub error: f64,
    /// `Σ target²`.
    pub energy: f64,
}

impl Difference {
    /// `‖output − target‖ / ‖target‖`.
    pub fn relative_error(&self) -> f64 {
        libm::sqrt(self.error / self.energy.max(f64::MIN_POSITIVE))
    }
}

impl Batch {
    /// No images yet, on `device`.
    pub fn new(device: &Device) -> Self {
        let shape = Shape::new(1, 1, 1);
        Self(match device {
            Device::Cpu => On::Cpu(Groups::zeros(shape, 0)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => On::Burn(Box::new(BurnBatch::new(shape, device))),
        })
    }

    /// Heap bytes on the CPU of so many images of so many values.
    pub(crate) fn bytes(elements: usize, images: usize) -> u64 {
        images.div_ceil(LANES) as u64 * (elements * size_of::<Lanes>()) as u64
    }

    /// Images of these values, one after another, on the CPU.
    pub fn from_values(values: &[f32], shape: Shape) -> Self {
        let mut batch = Self::new(&Device::Cpu);
        batch.set_values(values, shape);
        batch
    }

    /// The same images on `device`.
    pub fn to_device(&self, device: &Device) -> Self {
        let mut batch = Self::new(device);
        batch.set_values(&self.to_values(), self.shape());
        batch
    }

    fn set_values(&mut self, values: &[f32], shape: Shape) {
        let elements = shape.elements();
        self.fill(shape, values.len() / elements, |image, offset, chunk| {
            chunk.copy_from_slice(&values[image * elements + offset..][..chunk.len()]);
        });
    }

    /// The values, image by image.
    pub fn to_values(&self) -> Vec<f32> {
        let elements = self.shape().elements();
        let mut values = vec![0.0; self.len() * elements];
        self.read(|image, offset, chunk| values[image * elements + offset..][..chunk.len()].copy_from_slice(chunk));
        values
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        on!(&self.0, values => values.shape())
    }

    /// Where it lies.
    pub fn device(&self) -> Device {
        match &self.0 {
            On::Cpu(_) => Device::Cpu,
            #[cfg(feature = "burn")]
            On::Burn(batch) => Device::Burn(batch.device()),
        }
    }

    /// The batch on one of Burn's devices, if it lies there.
    #[cfg(feature = "burn")]
    pub(crate) fn burn_mut(&mut self) -> Option<&mut BurnBatch> {
        match &mut self.0 {
            On::Cpu(_) => None,
            On::Burn(batch) => Some(batch),
        }
    }

    /// Images in the batch.
    pub fn len(&self) -> usize {
        on!(&self.0, values => values.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets `count` images: `source(image, offset, chunk)` gives the values of one from `offset` on, in any order. The memory is used again.
    pub fn fill(&mut self, shape: Shape, count: usize, source: impl Fn(usize, usize, &mut [f32]) + Sync) {
        on!(&mut self.0, values => values.fill(shape, count, source));
    }

    /// [`fill`](Self::fill) where the images must come one after another.
    ///
    /// # Errors
    /// The source's own.
    pub fn fill_in_order<E>(
        &mut self,
        shape: Shape,
        count: usize,
        source: impl FnMut(usize, usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        on!(&mut self.0, values => values.fill_in_order(shape, count, source))
    }

    /// Shows every image to `target(image, offset, chunk)`, chunk by chunk.
    pub fn read(&self, target: impl FnMut(usize, usize, &[f32])) {
        self.on_cpu().read(target);
    }

    /// The images in the CPU's layout; from another device they are copied.
    pub(crate) fn on_cpu(&self) -> Cow<'_, Groups> {
        match &self.0 {
            On::Cpu(groups) => Cow::Borrowed(groups),
            #[cfg(feature = "burn")]
            On::Burn(batch) => Cow::Owned(batch.download()),
        }
    }

    /// Subtracts a batch of the same shape, length and device.
    pub(crate) fn subtract(&mut self, others: &Self) {
        match (&mut self.0, &others.0) {
            (On::Cpu(values), On::Cpu(others)) => values.subtract(others),
            #[cfg(feature = "burn")]
            (On::Burn(values), On::Burn(others)) => values.subtract(others),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// Adds the difference of these outputs from their targets to `sums`.
    pub fn add_difference(&self, target: &Self, sums: &mut Difference) {
        match (&self.0, &target.0) {
            (On::Cpu(groups), On::Cpu(target)) => groups.add_difference(target, sums),
            #[cfg(feature = "burn")]
            (On::Burn(batch), On::Burn(target)) => batch.add_difference(target, sums),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// The sum of the squares.
    pub(crate) fn energy(&self) -> f64 {
        on!(&self.0, values => values.energy())
    }
}

/// What a batch of one device handed to another ends in.
#[cfg(feature = "burn")]
pub(super) const OTHER_DEVICE: &str = "a batch is used on its own device";
