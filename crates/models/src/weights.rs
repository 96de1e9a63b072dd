//! A model's numbers under names, and their safetensors form.

use std::collections::BTreeMap;

/// One named array, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    F32 { shape: Vec<usize>, data: Vec<f32> },
    U32 { shape: Vec<usize>, data: Vec<u32> },
    U64 { shape: Vec<usize>, data: Vec<u64> },
}

/// Everything a fitted model must remember besides its config, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights(pub BTreeMap<String, Array>);
