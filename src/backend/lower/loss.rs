//! Softmax, losses, and sums of one number.

use super::{Context, Launch, Slice};
use crate::Result;
use crate::kernel::Variant;
use crate::kernel::params::{self, size};
use crate::op::{ElementLoss, ElementLossKind, Softmax, SoftmaxCrossEntropy, SoftmaxGrad, SquareNorm, Target, Write};
use crate::tensor::TensorId;

/// Invocations that share a row.
const WG: u32 = 128;
/// Invocations of a work group where each owns one row.
const WG_SMALL: u32 = 64;

pub fn softmax(op: &Softmax, c: &Context) -> Result<Vec<Launch>> {
    let (rows, columns) = (c.desc(op.x).shape.rows(), c.last(op.x));
    let variant = Variant::new("softmax")
        .name("dtype", c.dtype(op.x)?)
        .flag("hidden", op.hidden.is_some())
        .flag("log", op.log)
        .int("wg", WG);
    let variant = c.reducing(variant);
    let params = params::Softmax { rows: size(rows)?, columns: size(columns)? };
    Ok(vec![c.launch(variant, &params, &[Some(op.x), op.hidden, Some(op.out)], c.flat(rows, 1)?)?])
}

pub fn softmax_grad(op: &SoftmaxGrad, c: &Context) -> Result<Vec<Launch>> {
    let (rows, columns) = (c.desc(op.y).shape.rows(), c.last(op.y));
    let variant = Variant::new("softmax_grad")
        .name("dtype", c.dtype(op.y)?)
        .flag("hidden", op.hidden.is_some())
        .flag("add", op.dx.write == Write::Add)
        .int("wg", WG);
    let variant = c.reducing(variant);
    let params = params::SoftmaxGrad { rows: size(rows)?, columns: size(columns)? };
    let buffers = [Some(op.y), Some(op.dy), op.hidden, Some(op.dx.id)];
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(rows, 1)?)?])
}

/// Losses of rows in f32.
pub fn row_loss_workspace(rows: usize) -> usize {
    4 * rows
}

/// Where the losses of rows go: to their tensor if it is in f32 and wanted, else to scratch.
fn row_loss(id: Option<TensorId>, rows: usize, c: &Context) -> Result<Slice> {
    match id {
        Some(id) if c.dtype(id)? == "f32" => Ok((c.slice)(id)),
        _ => c.scratch(0, rows),
    }
}

/// The launches after the rows: the weighted sum, and the copy of row losses in another type.
fn finish(
    rows: Slice,
    n: usize,
    weights: TensorId,
    loss: Target,
    row_loss: Option<TensorId>,
    c: &Context,
) -> Result<Vec<Launch>> {
    let sum = Sum { x: rows, source: "f32", weight: Some(weights), of: "product", n };
    let mut launches = vec![sum.launch((c.slice)(loss.id), c.dtype(loss.id)?, loss.write == Write::Add, 1, c)?];
    if let Some(id) = row_loss.filter(|id| (c.slice)(*id) != rows) {
        // A sum of one row each: a conversion.
        let columns = super::movement::Columns { x: rows, weight: None, rows: 1, n };
        let (out, dtype) = ((c.slice)(id), c.dtype(id)?);
        launches.push(super::movement::column_sum_step(columns, "f32", out, dtype, false, 1, c)?);
    }
    Ok(launches)
}

pub fn softmax_cross_entropy(op: &SoftmaxCrossEntropy, c: &Context) -> Result<Vec<Launch>> {
    let (rows, columns) = (c.len(op.labels), c.last(op.logits));
    let variant = Variant::new("softmax_cross_entropy")
        .name("dtype", c.dtype(op.logits)?)
        .flag("hidden", op.hidden.is_some())
        .flag("dlogits", op.dlogits.is_some())
        .int("wg", WG);
    let variant = c.reducing(variant);
    let params = params::SoftmaxCrossEntropy { rows: size(rows)?, columns: size(columns)? };
    let losses = row_loss(op.row_loss, rows, c)?;
    let slice = |id: Option<TensorId>| id.map(|id| (c.slice)(id));
    let inputs = [Some(op.logits), op.hidden, Some(op.labels), Some(op.weights)].map(slice);
    let buffers: Vec<_> = inputs.into_iter().chain([Some(losses), slice(op.dlogits)]).collect();
    let mut launches = vec![c.launch_slices(variant, &params, &buffers, c.flat(rows, 1)?)?];
    launches.extend(finish(losses, rows, op.weights, op.loss, op.row_loss, c)?);
    Ok(launches)
}

pub fn element_loss(op: &ElementLoss, c: &Context) -> Result<Vec<Launch>> {
    let rows = c.len(op.x);
    let kind = match op.kind {
        ElementLossKind::SquaredError => "squared_error",
        ElementLossKind::SigmoidCrossEntropy => "sigmoid_cross_entropy",
    };
    let variant = Variant::new("element_loss")
        .name("dtype", c.dtype(op.x)?)
        .name("kind", kind)
        .flag("dx", op.dx.is_some())
        .int("wg", WG_SMALL);
    let params = params::ElementLoss { rows: size(rows)? };
    let losses = row_loss(op.row_loss, rows, c)?;
    let inputs = [op.x, op.labels, op.weights].map(|id| Some((c.slice)(id)));
    let buffers: Vec<_> = inputs.into_iter().chain([Some(losses), op.dx.map(|id| (c.slice)(id))]).collect();
    let mut launches = vec![c.launch_slices(variant, &params, &buffers, c.flat(rows, WG_SMALL as usize)?)?];
    launches.extend(finish(losses, rows, op.weights, op.loss, op.row_loss, c)?);
    Ok(launches)
}

/// Invocations of a work group of `sum`.
const WG_SUM: u32 = 256;
/// Elements of a part of a long sum.
const PART: usize = 16 * WG_SUM as usize;

/// What is summed.
struct Sum {
    x: Slice,
    source: &'static str,
    weight: Option<TensorId>,
    of: &'static str,
    n: usize,
}

impl Sum {
    fn launch(self, out: Slice, dtype: &'static str, add: bool, parts: usize, c: &Context) -> Result<Launch> {
        let variant = Variant::new("sum")
            .name("source", self.source)
            .name("dtype", dtype)
            .name("of", self.of)
            .flag("add", add)
            .int("wg", WG_SUM);
        let variant = c.reducing(variant);
        let part = if parts == 1 { self.n } else { PART };
        let params = params::Sum { n: size(self.n)?, part: size(part)? };
        let buffers = [Some(self.x), self.weight.map(|id| (c.slice)(id)), Some(out)];
        c.launch_slices(variant, &params, &buffers, c.fits([size(parts)?, 1, 1])?)
    }
}

/// One number a part.
pub fn square_norm_workspace(n: usize) -> usize {
    if n <= PART { 0 } else { 4 * n.div_ceil(PART) }
}

pub fn square_norm(op: &SquareNorm, c: &Context) -> Result<Vec<Launch>> {
    square_norm_over(op, (c.slice)(op.x), c.len(op.x), c)
}

/// As `op`, of `n` elements from `x` on.
pub fn square_norm_over(op: &SquareNorm, x: Slice, n: usize, c: &Context) -> Result<Vec<Launch>> {
    let (dtype, add) = (c.dtype(op.out.id)?, op.out.write == Write::Add);
    let (source, out) = (c.dtype(op.x)?, (c.slice)(op.out.id));
    let squares = Sum { x, source, weight: None, of: "square", n };
    if n <= PART {
        return Ok(vec![squares.launch(out, dtype, add, 1, c)?]);
    }
    let parts = n.div_ceil(PART);
    let scratch = c.scratch(0, parts)?;
    let sums = Sum { x: scratch, source: "f32", weight: None, of: "x", n: parts };
    Ok(vec![squares.launch(scratch, "f32", false, parts, c)?, sums.launch(out, dtype, add, 1, c)?])
}
