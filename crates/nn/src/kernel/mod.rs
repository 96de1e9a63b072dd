//! Kernels with run-time dispatch. The only module of the crate that may use `unsafe`: to call a function compiled
//! for an instruction set after asking the processor for it, to let threads write disjoint tiles of one matrix, and to map files.
//!
//! Instruction sets with fused multiply–add give the same bits; the plain one rounds once more for each product, so what it
//! gives lies within 1e-5 of that, of the largest number of the result or of 1, for vectors of up to 200 numbers of about 1
//! (`levels.rs` runs every kernel on every set that the processor has).
#![allow(unsafe_code, clippy::inline_always)]

mod blas;
mod cg;
mod graph;
#[cfg(test)]
mod levels;
mod map;
mod math;
mod norm;
mod recurrent;
mod scan;
mod spd;
mod update;
mod vector;

pub use blas::{Layout, gemm, transpose};
pub use cg::conjugate_gradients;
pub use graph::sparse_times;
pub(crate) use map::map;
pub use math::{
    Activation, Dropout, activate, bias_activate, deactivate, drop_out, exp, exp_below, exp_below_tops, max,
    multiply, multiply_add, multiply_by, scale, scaled_silu, scaled_silu_and_slope, softmax, softmax_again,
    softmax_back, sum,
};
pub use norm::{layer_norm, layer_norm_back, rms_norm, rms_norm_back};
pub use recurrent::{convolve, convolve_back, gru_step, gru_step_back};
pub use scan::{SCAN_CHUNK, ScanGrads, ScanInputs, scan, scan_back, scan_layout};
pub use spd::{NotPositive, cholesky, cholesky_solve, mirror_scaled, spd_inverse_in_place};
pub use update::{AdamStep, adagrad, adam};
pub use vector::{axpy, bpr_steps, dot, dot_rows, gram_apply, prefetch, select_above, syrk_lower};

/// Instruction sets a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Avx512,
    Avx2,
    /// The target's own baseline with fused multiply–add (NEON on `aarch64`).
    Neon,
    Plain,
}

/// What this processor runs. The answer is cached by the standard library.
#[inline]
pub fn isa() -> Isa {
    #[cfg(test)]
    if let Some(forced) = levels::forced() {
        return forced;
    }
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl") {
            return Isa::Avx512;
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
        Isa::Plain
    }
    #[cfg(not(target_arch = "x86_64"))]
    if cfg!(target_arch = "aarch64") { Isa::Neon } else { Isa::Plain }
}

/// `a·b + c`, fused where the instruction set has it: elsewhere the fused form would be a slow library call.
#[inline(always)]
fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Makes `$name` from `$body`: one safe body with a constant `FMA`, compiled for each instruction set.
/// The lanes are fixed in the body, so every set with fused multiply–add gives the same bits.
macro_rules! dispatched {
    ($(#[$meta:meta])* $name:ident = $body:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        pub fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<true>($($arg),*)
            }
            match $crate::kernel::isa() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor was just asked for these instructions.
                $crate::kernel::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::kernel::Isa::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                $crate::kernel::Isa::Neon => $body::<true>($($arg),*),
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use dispatched;
