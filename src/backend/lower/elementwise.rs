//! Dropout, activations, positions, Adam.

use super::{Context, Launch, Slice};
use crate::Result;
use crate::kernel::Variant;
use crate::kernel::params::{self, Drop, size};
use crate::op::philox::DECISIONS;
use crate::op::{Activation, ActivationGrad, ActivationKind, Adam, Dropout, DropoutSite, PositionEncoding};
use crate::tensor::TensorId;

/// Invocations of a work group where each owns the elements of one Philox block.
const WG: u32 = 64;

/// Template value of an activation.
fn kind(kind: ActivationKind) -> &'static str {
    match kind {
        ActivationKind::GeluTanh => "gelu_tanh",
        ActivationKind::GeluErf => "gelu_erf",
        ActivationKind::Relu => "relu",
        ActivationKind::Tanh => "tanh",
    }
}

/// Params and grid of a kernel over the elements of `x`, each invocation with those of one Philox block; without dropout
/// they are all of one row.
fn over_elements(x: TensorId, site: Option<DropoutSite>, c: &Context) -> Result<(params::Elements, [u32; 3])> {
    let n = c.len(x);
    let d = if site.is_some() { c.desc(x).shape.last() } else { n }.max(1);
    let rows = n / d;
    let key_len = site.map_or(0, |site| c.len(site.key));
    let Drop { site, threshold, scale, lead, tail, split } = Drop::new(site, rows, key_len)?;
    let params = params::Elements { rows: size(rows)?, d: size(d)?, site, threshold, scale, lead, tail, split };
    Ok((params, c.flat(rows * d.div_ceil(DECISIONS), WG as usize)?))
}

pub fn dropout(op: &Dropout, c: &Context) -> Result<Vec<Launch>> {
    let (params, grid) = over_elements(op.x, Some(op.dropout), c)?;
    let variant = Variant::new("dropout").name("dtype", c.dtype(op.x)?).int("wg", WG);
    let buffers = [op.x, op.dropout.key, op.out].map(Some);
    Ok(vec![c.launch(variant, &params, &buffers, grid)?])
}

pub fn activation(op: &Activation, c: &Context) -> Result<Vec<Launch>> {
    let (params, grid) = over_elements(op.x, op.dropout, c)?;
    let variant = Variant::new("activation")
        .name("dtype", c.element(op.x)?)
        .name("kind", kind(op.kind))
        .flag("dropout", op.dropout.is_some())
        .int("wg", WG);
    let buffers = [Some(op.x), op.dropout.map(|d| d.key), Some(op.out)];
    Ok(vec![c.launch(variant, &params, &buffers, grid)?])
}

pub fn activation_grad(op: &ActivationGrad, c: &Context) -> Result<Vec<Launch>> {
    let (params, grid) = over_elements(op.x, op.dropout, c)?;
    let variant = Variant::new("activation_grad")
        .name("dtype", c.element(op.x)?)
        .name("kind", kind(op.kind))
        .flag("dropout", op.dropout.is_some())
        .int("wg", WG);
    let buffers = [Some(op.x), Some(op.dout), op.dropout.map(|d| d.key), Some(op.dx)];
    Ok(vec![c.launch(variant, &params, &buffers, grid)?])
}

/// Rows of a block of the position table: the power of the frequency is found once for all of them.
const POSITIONS: usize = 32;

/// Invocations of a work group of `adam`, each with one element.
const WG_ADAM: u32 = 256;

/// `x`, below 1, in units of 2^-64: high and low word. An f64 has 53 bits, so that the angle of a distance below 2^20 is
/// exact to 2^-33 of a turn.
fn fraction(x: f64) -> [u32; 2] {
    let units = (x * 2f64.powi(64)) as u64;
    [(units >> 32) as u32, units as u32]
}

pub fn position_encoding(op: &PositionEncoding, c: &Context) -> Result<Vec<Launch>> {
    let dims = c.desc(op.out).shape;
    let (d, rows) = (dims.last(), dims.rows());
    let groups = dims.dims().first().copied().unwrap_or(1);
    let positions = rows / groups.max(1);
    let variant = Variant::new("position_encoding")
        .name("dtype", c.dtype(op.out)?)
        .flag("directed", op.direction.is_some())
        .int("wg", WG);
    let [turn_high, turn_low] = fraction(0.5 * std::f64::consts::FRAC_1_PI);
    let ratio = 10000f64.powf(-2.0 / d as f64);
    let [ratio_high, ratio_low] = fraction(ratio);
    let params = params::PositionEncoding {
        positions: size(positions)?,
        d: size(d)?,
        keys: size(op.keys)?,
        clamp_len: op.clamp_len.map_or(Ok(u32::MAX), size)?,
        block: POSITIONS as u32,
        turn_high,
        turn_low,
        ratio_high,
        ratio_low,
    };
    let grid = [size((d / 2).div_ceil(WG as usize))?, size(positions.div_ceil(POSITIONS))?, size(groups)?];
    Ok(vec![c.launch(variant, &params, &[op.direction, Some(op.out)], c.fits(grid)?)?])
}

pub fn adam(op: &Adam, c: &Context) -> Result<Vec<Launch>> {
    let slices = [op.param, op.grad, op.m, op.v].map(|id| (c.slice)(id));
    adam_over(op, slices, c.len(op.param), c)
}

/// The update of `op` on `n` elements of parameters, gradients and moments.
pub fn adam_over(op: &Adam, slices: [Slice; 4], n: usize, c: &Context) -> Result<Vec<Launch>> {
    let variant = Variant::new("adam").name("dtype", c.dtype(op.param)?).flag("decays", op.decays).int("wg", WG_ADAM);
    let params = params::Adam { n: size(n)?, grad_scale: op.grad_scale, lr_scale: op.lr_scale };
    let constants = [op.square_norm, op.hyper].map(|id| (c.slice)(id));
    let buffers: Vec<_> = slices.into_iter().chain(constants).map(Some).collect();
    Ok(vec![c.launch_slices(variant, &params, &buffers, c.flat(n, WG_ADAM as usize)?)?])
}
