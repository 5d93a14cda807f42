//! Layer normalisation.

use super::movement::{Columns, block_rows, blocks, column_sum_step};
use super::{Context, Launch};
use crate::Result;
use crate::kernel::Variant;
use crate::kernel::params::{self, Drop, size};
use crate::op::{DropoutSite, LayerNorm, LayerNormGrad, Target, Write};
use crate::tensor::TensorId;

/// Invocations that share a row.
const WG: u32 = 64;

/// Constants of a dropout place of `rows` rows.
fn place(site: Option<DropoutSite>, rows: usize, c: &Context) -> Result<Drop> {
    Drop::new(site, rows, site.map_or(0, |site| c.len(site.key)))
}

pub fn layer_norm(op: &LayerNorm, c: &Context) -> Result<Vec<Launch>> {
    let d = c.len(op.gamma);
    let rows = c.len(op.x) / d;
    let Drop { site, threshold, scale, lead, tail, split } = place(op.dropout, rows, c)?;
    let variant = Variant::new("layer_norm").name("dtype", c.dtype(op.out)?);
    let variant = halves(variant, op.rounded, c)?
        .flag("residual", op.residual.is_some())
        .flag("dropout", op.dropout.is_some())
        .flag("kept", op.sum.is_some())
        .int("wg", WG);
    let variant = c.reducing(variant);
    let statistics = u32::from(op.mean.is_some()) + 2 * u32::from(op.rstd.is_some());
    let (eps, d) = (op.eps, size(d)?);
    let params = params::LayerNorm { rows: size(rows)?, d, eps, site, threshold, scale, statistics, lead, tail, split };
    let key = op.dropout.map(|dropout| dropout.key);
    let kept = [op.sum, op.mean, op.rstd];
    let buffers = [Some(op.x), op.residual, key, Some(op.gamma), Some(op.beta), Some(op.out)];
    let buffers: Vec<_> = buffers.into_iter().chain(kept).chain([op.rounded]).collect();
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(rows, 1)?)?])
}

/// Adds the type of the tensor that may be in half precision.
///
/// # Errors
/// When this device has no such numbers.
fn halves(variant: Variant, id: Option<TensorId>, c: &Context) -> Result<Variant> {
    let id = id.filter(|id| c.desc(*id).dtype.is_half());
    Ok(variant.name("half", id.map_or(Ok("none"), |id| c.half(id))?))
}

/// Sums of every block of rows, for gamma and for beta.
pub fn layer_norm_grad_workspace(rows: usize, d: usize) -> usize {
    4 * 2 * blocks(rows) * d
}

pub fn layer_norm_grad(op: &LayerNormGrad, c: &Context) -> Result<Vec<Launch>> {
    let d = c.len(op.gamma);
    let (rows, dtype) = (c.len(op.dout) / d, c.dtype(op.dout)?);
    let mut launches = vec![];
    if op.dgamma.is_some() || op.dbeta.is_some() {
        let parts = blocks(rows);
        let variant = Variant::new("layer_norm_grad_columns").name("dtype", dtype).int("wg", WG);
        let params = params::LayerNormGradColumns { rows: size(rows)?, d: size(d)?, block: size(block_rows())? };
        let inputs = [op.dout, op.sum, op.mean, op.rstd].map(|id| Some((c.slice)(id)));
        let buffers: Vec<_> = inputs.into_iter().chain([Some(c.scratch(0, 2 * parts * d)?)]).collect();
        let grid = c.fits([size(d.div_ceil(WG as usize))?, size(parts)?, 1])?;
        launches.push(c.launch_slices(variant, &params, &buffers, grid)?);
        for (target, at) in [(op.dgamma, 0), (op.dbeta, parts * d)] {
            let Some(Target { id, write }) = target else { continue };
            let sums = Columns { x: c.scratch(at, parts * d)?, weight: None, rows: parts, n: d };
            let (out, add) = ((c.slice)(id), write == Write::Add);
            launches.push(column_sum_step(sums, "f32", out, dtype, add, parts, c)?);
        }
    }
    let variant = halves(Variant::new("layer_norm_grad").name("dtype", dtype), op.dx, c)?;
    let variant = variant.flag("dropout", op.dropout.is_some()).int("wg", WG);
    let variant = c.reducing(variant);
    let Drop { site, threshold, scale, lead, tail, split } = place(op.dropout, rows, c)?;
    let params = params::LayerNormGrad { rows: size(rows)?, d: size(d)?, site, threshold, scale, lead, tail, split };
    let key = op.dropout.map(|dropout| dropout.key);
    let inputs = [op.dout, op.sum, op.mean, op.rstd, op.gamma, op.dsum].map(Some);
    let buffers: Vec<_> = inputs.into_iter().chain([key, op.dx]).collect();
    launches.push(c.launch(variant, &params, &buffers, c.flat(rows, 1)?)?);
    Ok(launches)
}
