//! Compiles kernels for every instruction set.

/// Defines a function to run on an [`Arch`](super::instructions::Arch); inside, `S` is its vector type. A closure would
/// not do: the compiler does not inline one into three instruction sets, but compiles it for the oldest.
macro_rules! dispatched {
    (
        $(#[$meta:meta])*
        $visibility:vis fn $name:ident<$life:lifetime, $vectors:ident $(, $generic:ident: $bound:path)?>(
            $simd:ident, $($argument:ident: $type:ty),* $(,)?
        ) -> $output:ty $body:block
    ) => {
        $(#[$meta])*
        $visibility fn $name<$life $(, $generic: $bound)?>(arch: $crate::kernels::instructions::Arch, $($argument: $type),*) -> $output {
            struct Loop<$life $(, $generic)?> {
                $($argument: $type,)*
                life: core::marker::PhantomData<&$life ()>,
            }
            impl<$life $(, $generic: $bound)?> pulp::WithSimd for Loop<$life $(, $generic)?> {
                type Output = $output;

                #[inline(always)]
                fn with_simd<$vectors: pulp::Simd>(self, $simd: $vectors) -> $output {
                    let Self { $($argument,)* .. } = self;
                    $body
                }
            }
            arch.dispatch(Loop { $($argument,)* life: core::marker::PhantomData })
        }
    };
}
