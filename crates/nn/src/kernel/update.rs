//! Steps of optimisers, entry by entry.

use super::{dispatched, madd};

/// One step of Adam with decoupled weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate over the bias correction of the first moment, rate / (1 − β₁ᵗ).
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ).
    pub correct: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// What is left of a weight before the step: 1 − rate · decay.
    pub keep: f32,
    /// Gradients are multiplied by this first (clipping).
    pub scale: f32,
}

dispatched! {
    /// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², w ← keep · w − rate · m / (√v · correct + ε).
    adam = adam_body(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: AdamStep)
}

dispatched! {
    /// s ← s + (scale g)², w ← keep · w − rate · scale g / (√s + ε).
    adagrad = adagrad_body(w: &mut [f32], g: &[f32], s: &mut [f32], rate: f32, epsilon: f32, keep: f32, scale: f32)
}

#[inline(always)]
fn adam_body<const FMA: bool>(w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: AdamStep) {
    let n = w.len();
    let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
    for i in 0..n {
        let grad = g[i] * step.scale;
        m[i] = madd::<FMA>(step.beta1, m[i], (1.0 - step.beta1) * grad);
        v[i] = madd::<FMA>(step.beta2, v[i], (1.0 - step.beta2) * grad * grad);
        let size = madd::<FMA>(v[i].sqrt(), step.correct, step.epsilon);
        w[i] = madd::<FMA>(step.keep, w[i], -step.rate * m[i] / size);
    }
}

#[inline(always)]
fn adagrad_body<const FMA: bool>(
    w: &mut [f32],
    g: &[f32],
    s: &mut [f32],
    rate: f32,
    epsilon: f32,
    keep: f32,
    scale: f32,
) {
    let n = w.len();
    let (g, s) = (&g[..n], &mut s[..n]);
    for i in 0..n {
        let grad = g[i] * scale;
        s[i] = madd::<FMA>(grad, grad, s[i]);
        w[i] = madd::<FMA>(keep, w[i], -rate * grad / (s[i].sqrt() + epsilon));
    }
}
