//! Batches of images, each on one device.

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

/// A batch `[N, C, H, W]`: inputs, targets or outputs of a block, on one device and in that device's fastest layout.
#[derive(Clone, Debug)]
pub struct Batch(pub(super) Backend);

#[derive(Clone, Debug)]
pub(super) enum Backend {
    Cpu(Groups),
    #[cfg(feature = "burn")]
    Burn(Box<BurnBatch>),
}

/// Sums over the elements of outputs and targets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Difference {
    /// `Σ (output − target)²`.
    pub error: f64,
    /// `Σ target²`.
    pub energy: f64,
    /// Number of elements.
    pub values: usize,
}

/// Outputs smaller than this, root mean square, count as zeros: single precision rounds 1 to a tenth of a millionth.
const LEAST_OUTPUT: f64 = 1e-7;

impl Difference {
    /// `‖output − target‖ / ‖target‖`, with a norm of at least that of targets of 1e-7: a teacher's block whose outputs are
    /// almost zero must not make rounding look like an error.
    pub fn relative_error(&self) -> f64 {
        let least = LEAST_OUTPUT * LEAST_OUTPUT * self.values as f64;
        libm::sqrt(self.error / self.energy.max(least).max(f64::MIN_POSITIVE))
    }

    /// Mean squared error per element.
    pub fn mean_squared_error(&self) -> f64 {
        self.error / self.values.max(1) as f64
    }
}

impl Batch {
    /// An empty batch on `device`.
    pub fn new(device: &Device) -> Self {
        let shape = Shape::new(1, 1, 1);
        Self(match device {
            Device::Cpu => Backend::Cpu(Groups::zeros(shape, 0)),
            #[cfg(feature = "burn")]
            Device::Burn(device) => Backend::Burn(Box::new(BurnBatch::new(shape, device))),
        })
    }

    /// Heap bytes of a CPU batch of `images` images with `elements` values each.
    pub(crate) fn bytes(elements: usize, images: usize) -> u64 {
        images.div_ceil(LANES) as u64 * (elements * size_of::<Lanes>()) as u64
    }

    /// A CPU batch of images whose values follow one another.
    pub fn from_values(values: &[f32], shape: Shape) -> Self {
        let mut batch = Self::new(&Device::Cpu);
        batch.set_values(values, shape);
        batch
    }

    /// Copies the batch to `device`.
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

    /// Copies the values out, image by image.
    pub fn to_values(&self) -> Vec<f32> {
        let elements = self.shape().elements();
        let mut values = vec![0.0; self.len() * elements];
        self.read(|image, offset, chunk| values[image * elements + offset..][..chunk.len()].copy_from_slice(chunk));
        values
    }

    /// Shape of one image.
    pub fn shape(&self) -> Shape {
        on_backend!(&self.0, values => values.shape())
    }

    /// The batch's device.
    pub fn device(&self) -> Device {
        match &self.0 {
            Backend::Cpu(_) => Device::Cpu,
            #[cfg(feature = "burn")]
            Backend::Burn(batch) => Device::Burn(batch.device()),
        }
    }

    /// The Burn batch, or `None` on the CPU.
    #[cfg(feature = "burn")]
    pub(crate) fn burn_mut(&mut self) -> Option<&mut BurnBatch> {
        match &mut self.0 {
            Backend::Cpu(_) => None,
            Backend::Burn(batch) => Some(batch),
        }
    }

    /// Images in the batch.
    pub fn len(&self) -> usize {
        on_backend!(&self.0, values => values.len())
    }

    /// Whether the batch has no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces the content by `count` images. `source(image, offset, chunk)` writes values of one image, in any order.
    pub fn fill(&mut self, shape: Shape, count: usize, source: impl Fn(usize, usize, &mut [f32]) + Sync) {
        on_backend!(&mut self.0, values => values.fill(shape, count, source));
    }

    /// [`fill`](Self::fill) that calls `source` image after image, in order.
    ///
    /// # Errors
    /// The source's own.
    pub fn fill_in_order<E>(
        &mut self,
        shape: Shape,
        count: usize,
        source: impl FnMut(usize, usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        on_backend!(&mut self.0, values => values.fill_in_order(shape, count, source))
    }

    /// Passes every image to `target(image, offset, chunk)`, chunk by chunk.
    pub fn read(&self, target: impl FnMut(usize, usize, &[f32])) {
        self.on_cpu().read(target);
    }

    /// The images in the CPU's layout, copied if they are on another device.
    pub(crate) fn on_cpu(&self) -> Cow<'_, Groups> {
        match &self.0 {
            Backend::Cpu(groups) => Cow::Borrowed(groups),
            #[cfg(feature = "burn")]
            Backend::Burn(batch) => Cow::Owned(batch.download()),
        }
    }

    /// Subtracts a batch of the same shape, length and device.
    pub(crate) fn subtract(&mut self, others: &Self) {
        match (&mut self.0, &others.0) {
            (Backend::Cpu(values), Backend::Cpu(others)) => values.subtract(others),
            #[cfg(feature = "burn")]
            (Backend::Burn(values), Backend::Burn(others)) => values.subtract(others),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// Adds the difference between this batch of outputs and `target` to `sums`.
    pub fn add_difference(&self, target: &Self, sums: &mut Difference) {
        sums.values += self.len() * self.shape().elements();
        match (&self.0, &target.0) {
            (Backend::Cpu(groups), Backend::Cpu(target)) => groups.add_difference(target, sums),
            #[cfg(feature = "burn")]
            (Backend::Burn(batch), Backend::Burn(target)) => batch.add_difference(target, sums),
            #[cfg(feature = "burn")]
            _ => panic!("{OTHER_DEVICE}"),
        }
    }

    /// The sum of squares.
    pub(crate) fn energy(&self) -> f64 {
        on_backend!(&self.0, values => values.energy())
    }
}

/// The panic message for a batch used on another device.
#[cfg(feature = "burn")]
pub(super) const OTHER_DEVICE: &str = "a batch is used on its own device";
