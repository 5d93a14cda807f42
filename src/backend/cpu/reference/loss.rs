//! Softmax and losses.

use super::Env;
use crate::Result;
use crate::op::{ElementLoss, ElementLossKind, Softmax, SoftmaxCrossEntropy, SoftmaxGrad};
use crate::tensor::TensorId;

/// Scores after barring: `x (1 - hidden) - 1e30 hidden`.
fn barred(x: &[f64], hidden: &[f64]) -> Vec<f64> {
    x.iter().zip(hidden).map(|(x, h)| x * (1.0 - h) - 1e30 * h).collect()
}

/// The barred columns, all 0 when there are none.
fn hidden(id: Option<TensorId>, len: usize, t: &Env) -> Vec<f64> {
    id.map_or_else(|| vec![0.0; len], |id| t.floats(id))
}

/// `x - log sum exp x` of one row.
///
/// The maximum goes first and the logarithm second: next to scores of -1e30 their sum would swallow the logarithm.
pub(super) fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - max - log_sum).collect()
}

pub(super) fn softmax(op: &Softmax, t: &mut Env) -> Result<()> {
    let x = t.floats(op.x);
    let x = barred(&x, &hidden(op.hidden, x.len(), t));
    let logs = x.chunks(t.last(op.x)).flat_map(log_softmax);
    let out: Vec<f64> = if op.log { logs.collect() } else { logs.map(f64::exp).collect() };
    t.set(op.out, &out);
    Ok(())
}

pub(super) fn softmax_grad(op: &SoftmaxGrad, t: &mut Env) -> Result<()> {
    let (y, dy, c) = (t.floats(op.y), t.floats(op.dy), t.last(op.y));
    let hidden = hidden(op.hidden, y.len(), t);
    let mut dx = vec![0.0; y.len()];
    for r in 0..y.len() / c {
        let row = r * c..(r + 1) * c;
        let dot: f64 = row.clone().map(|e| y[e] * dy[e]).sum();
        for e in row {
            dx[e] = (1.0 - hidden[e]) * y[e] * (dy[e] - dot);
        }
    }
    t.put(op.dx, &dx);
    Ok(())
}

pub(super) fn softmax_cross_entropy(op: &SoftmaxCrossEntropy, t: &mut Env) -> Result<()> {
    let (logits, c) = (t.floats(op.logits), t.last(op.logits));
    let hidden = hidden(op.hidden, logits.len(), t);
    let scores = barred(&logits, &hidden);
    let (labels, weights) = (t.indices(op.labels, 0, c)?, t.floats(op.weights));
    let mut row_loss = vec![0.0; labels.len()];
    let mut dlogits = vec![0.0; logits.len()];
    for (r, &label) in labels.iter().enumerate() {
        let logs = log_softmax(&scores[r * c..(r + 1) * c]);
        row_loss[r] = -logs[label as usize];
        for (j, log) in logs.iter().enumerate() {
            let onehot = f64::from(u8::from(j == label as usize));
            dlogits[r * c + j] = weights[r] * (log.exp() - onehot) * (1.0 - hidden[r * c + j]);
        }
    }
    finish(op.loss, op.row_loss, op.dlogits, &row_loss, &weights, &dlogits, t);
    Ok(())
}

pub(super) fn element_loss(op: &ElementLoss, t: &mut Env) -> Result<()> {
    let (x, labels, weights) = (t.floats(op.x), t.floats(op.labels), t.floats(op.weights));
    let mut row_loss = vec![0.0; x.len()];
    let mut dx = vec![0.0; x.len()];
    for (r, (&x, &label)) in x.iter().zip(&labels).enumerate() {
        let (loss, slope) = match op.kind {
            ElementLossKind::SquaredError => ((x - label).powi(2), 2.0 * (x - label)),
            ElementLossKind::SigmoidCrossEntropy => {
                (x.max(0.0) - x * label + (-x.abs()).exp().ln_1p(), 1.0 / (1.0 + (-x).exp()) - label)
            }
        };
        row_loss[r] = loss;
        dx[r] = weights[r] * slope;
    }
    finish(op.loss, op.row_loss, op.dx, &row_loss, &weights, &dx, t);
    Ok(())
}

/// Stores what every loss gives.
fn finish(
    loss: crate::op::Target,
    row_loss: Option<TensorId>,
    gradient: Option<TensorId>,
    rows: &[f64],
    weights: &[f64],
    d: &[f64],
    t: &mut Env,
) {
    let sum = rows.iter().zip(weights).map(|(row, weight)| row * weight).sum();
    t.put(loss, &[sum]);
    if let Some(id) = row_loss {
        t.set(id, rows);
    }
    if let Some(id) = gradient {
        t.set(id, d);
    }
}
