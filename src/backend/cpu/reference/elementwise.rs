//! Dropout, activations and the optimiser.

use std::f64::consts::{PI, SQRT_2};

use super::Env;
use crate::Result;
use crate::op::{Activation, ActivationGrad, ActivationKind, Adam, Dropout, SquareNorm};

pub(super) fn dropout(op: &Dropout, t: &mut Env) -> Result<()> {
    let x = t.floats(op.x);
    let factor = t.dropout_factors(Some(op.dropout), x.len(), t.last(op.x))?;
    let out: Vec<f64> = x.iter().zip(&factor).map(|(x, f)| x * f).collect();
    t.set(op.out, &out);
    Ok(())
}

/// Factor of x^3 in the tanh form of gelu.
const CUBIC: f64 = 0.044715;

fn value(kind: ActivationKind, x: f64) -> f64 {
    match kind {
        ActivationKind::GeluTanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + CUBIC * x * x * x)).tanh()),
        ActivationKind::GeluErf => 0.5 * x * (1.0 + libm::erf(x / SQRT_2)),
        ActivationKind::Relu => x.max(0.0),
        ActivationKind::Tanh => x.tanh(),
    }
}

fn slope(kind: ActivationKind, x: f64) -> f64 {
    match kind {
        ActivationKind::GeluTanh => {
            let c = (2.0 / PI).sqrt();
            let t = (c * (x + CUBIC * x * x * x)).tanh();
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * CUBIC * x * x)
        }
        ActivationKind::GeluErf => {
            let density = (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
            0.5 * (1.0 + libm::erf(x / SQRT_2)) + x * density
        }
        ActivationKind::Relu => f64::from(u8::from(x > 0.0)),
        ActivationKind::Tanh => 1.0 - x.tanh() * x.tanh(),
    }
}

pub(super) fn activation(op: &Activation, t: &mut Env) -> Result<()> {
    let x = t.floats(op.x);
    let factor = t.dropout_factors(op.dropout, x.len(), t.last(op.x))?;
    let out: Vec<f64> = x.iter().zip(&factor).map(|(&x, f)| value(op.kind, x) * f).collect();
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn activation_grad(op: &ActivationGrad, t: &mut Env) -> Result<()> {
    let (x, dout) = (t.floats(op.x), t.floats(op.dout));
    let factor = t.dropout_factors(op.dropout, x.len(), t.last(op.x))?;
    let dx: Vec<f64> = (0..x.len()).map(|e| slope(op.kind, x[e]) * factor[e] * dout[e]).collect();
    t.set(op.dx, &dx);
    Ok(())
}

pub(super) fn square_norm(op: &SquareNorm, t: &mut Env) -> Result<()> {
    let sum: f64 = t.floats(op.x).iter().map(|x| x * x).sum();
    t.put(op.out, &[sum]);
    Ok(())
}

pub(super) fn adam(op: &Adam, t: &mut Env) -> Result<()> {
    let hyper = t.floats(op.hyper);
    let [lr, clip, beta1, beta2, eps, weight_decay, rescale] = std::array::from_fn(|i| hyper[i]);
    let norm = t.floats(op.square_norm)[0].sqrt() * rescale;
    if !norm.is_finite() {
        return Ok(());
    }
    let clipped = if clip > 0.0 { clip / norm.max(clip) } else { 1.0 };
    let weight_decay = if op.decays { weight_decay } else { 0.0 };
    let (mut p, mut m, mut v) = (t.floats(op.param), t.floats(op.m), t.floats(op.v));
    for (i, grad) in t.floats(op.grad).into_iter().enumerate() {
        let g = grad * rescale * f64::from(op.grad_scale) * clipped;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
        p[i] -= lr * f64::from(op.lr_scale) * (m[i] / (v[i].sqrt() + eps) + weight_decay * p[i]);
    }
    t.set(op.param, &p);
    t.set(op.m, &m);
    t.set(op.v, &v);
    Ok(())
}
