//! The numeric kernels of the house, each in one place: plain functions over `f32` slices.
//!
//! A kernel is written once as safe Rust over fixed-width lanes and compiled for every instruction set that pays
//! (AVX2 with FMA, AVX-512, NEON, plain); the best one is chosen at run time, so one binary serves every machine.
//!
//! ```
//! use sommelier_nn::kernel;
//! assert_eq!(kernel::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
//! ```

pub mod kernel;
