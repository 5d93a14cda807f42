//! Dropout and activations.

use super::{Context, Launch};
use crate::Result;
use crate::kernel::Variant;
use crate::kernel::params::{self, Drop, size};
use crate::op::philox::DECISIONS;
use crate::op::{Activation, ActivationGrad, ActivationKind, Dropout};

/// Invocations of a work group where each owns the elements of one Philox block.
const WG: u32 = 64;
/// Elements of such a work group.
const ELEMENTS: usize = WG as usize * DECISIONS;

/// Template value of an activation.
fn kind(kind: ActivationKind) -> &'static str {
    match kind {
        ActivationKind::GeluTanh => "gelu_tanh",
        ActivationKind::GeluErf => "gelu_erf",
        ActivationKind::Relu => "relu",
        ActivationKind::Tanh => "tanh",
    }
}

pub fn dropout(op: &Dropout, c: &Context) -> Result<Vec<Launch>> {
    let (n, Drop { site, threshold, scale }) = (c.len(op.x), Drop::new(Some(op.dropout))?);
    let variant = Variant::new("dropout").name("dtype", c.dtype(op.x)?).int("wg", WG);
    let params = params::Dropout { n: size(n)?, site, threshold, scale };
    let buffers = [op.x, op.dropout.key, op.out].map(Some);
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, ELEMENTS)?)?])
}

pub fn activation(op: &Activation, c: &Context) -> Result<Vec<Launch>> {
    let (n, Drop { site, threshold, scale }) = (c.len(op.x), Drop::new(op.dropout)?);
    let variant = Variant::new("activation")
        .name("dtype", c.dtype(op.x)?)
        .name("kind", kind(op.kind))
        .flag("dropout", op.dropout.is_some())
        .int("wg", WG);
    let params = params::Activation { n: size(n)?, site, threshold, scale };
    let buffers = [Some(op.x), op.dropout.map(|d| d.key), Some(op.out)];
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, ELEMENTS)?)?])
}

pub fn activation_grad(op: &ActivationGrad, c: &Context) -> Result<Vec<Launch>> {
    let (n, Drop { site, threshold, scale }) = (c.len(op.x), Drop::new(op.dropout)?);
    let variant = Variant::new("activation_grad")
        .name("dtype", c.dtype(op.x)?)
        .name("kind", kind(op.kind))
        .flag("dropout", op.dropout.is_some())
        .int("wg", WG);
    let params = params::ActivationGrad { n: size(n)?, site, threshold, scale };
    let buffers = [Some(op.x), Some(op.dout), op.dropout.map(|d| d.key), Some(op.dx)];
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, ELEMENTS)?)?])
}
