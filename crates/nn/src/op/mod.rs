//! Operations, one file each: formula and shapes at its head, the way forwards, the way back, and a test of both against
//! plain loops and finite differences in `f64`.

mod attention;
mod candidates;
mod embed;
mod gate;
mod linear;
mod norm;

pub use attention::{Attention, Bias, Buckets, TimeScale, Weighing};
pub use candidates::Drawn;
pub use embed::{Embed, NO_ROW};
pub use gate::Gate;
pub use linear::Linear;
pub use norm::EPSILON;
