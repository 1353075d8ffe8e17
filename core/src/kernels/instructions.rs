//! The instruction set of the kernels, with vectors no longer than a group of images.

#[cfg(all(feature = "small", any(target_arch = "x86", target_arch = "x86_64")))]
pub use self::halves::Arch;
#[cfg(not(all(feature = "small", any(target_arch = "x86", target_arch = "x86_64"))))]
pub use pulp::Arch;

#[cfg(all(feature = "small", any(target_arch = "x86", target_arch = "x86_64")))]
mod halves {
    use pulp::{
        Scalar, Simd, WithSimd,
        x86::{V3, V3_128b},
    };

    /// Like pulp's `Arch`, with vectors of four.
    #[derive(Clone, Copy, Debug)]
    pub enum Arch {
        /// No SIMD.
        Scalar,
        /// Half of each AVX2 register.
        V3(V3),
    }

    impl Arch {
        /// The best instruction set of this processor.
        pub fn new() -> Self {
            V3::try_new().map_or(Self::Scalar, Self::V3)
        }

        /// Runs `work`.
        pub fn dispatch<W: WithSimd>(self, work: W) -> W::Output {
            match self {
                Self::Scalar => work.with_simd(Scalar),
                Self::V3(v3) => Simd::vectorize(v3, Halves(v3, work)),
            }
        }
    }

    /// Work compiled for AVX2 with vectors of half the length.
    struct Halves<W>(V3, W);

    impl<W: WithSimd> WithSimd for Halves<W> {
        type Output = W::Output;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> W::Output {
            self.1.with_simd(V3_128b(self.0))
        }
    }
}
