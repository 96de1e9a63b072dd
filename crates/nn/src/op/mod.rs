//! Operations, one file each: formula and shapes at its head, the way forwards, the way back, and a test of both against
//! plain loops and finite differences in `f64`.

mod linear;

pub use linear::Linear;
