//! Softmax and losses: rows are worked on by all threads, weighted sums are added up in f64.

use super::blocks::{self, BLOCK, for_each, part, part_mut, sum_of};
use super::real::Real;
use super::vector::{max, sum as sum_row, vectorize};
use crate::op::{ElementLossKind, Write};

/// Barred columns are this far below the others.
const BARRED: f64 = 1e30;

fn block_rows(columns: usize) -> usize {
    (BLOCK / columns).max(1)
}

/// `x (1 - hidden) - 1e30 hidden`.
#[inline(always)]
fn hide<R: Real>(x: &mut [R], hidden: &[R]) {
    let barred = R::from_f64(BARRED);
    for (x, &hidden) in x.iter_mut().zip(hidden) {
        *x = *x * (R::ONE - hidden) - barred * hidden;
    }
}

/// `x = exp(x - max)`; the answer is the maximum and the sum.
#[inline(always)]
fn exponentials<R: Real>(x: &mut [R]) -> [R; 2] {
    let top = max(x, x[0]);
    for x in x.iter_mut() {
        *x = (*x - top).exp();
    }
    [top, sum_row(x)]
}

/// `out = softmax` or its logarithm, rows of `columns`; without `x`, `out` is changed in place.
pub fn softmax<R: Real>(out: &mut [R], x: Option<&[R]>, hidden: Option<&[R]>, columns: usize, log: bool) {
    if out.is_empty() {
        return;
    }
    let block_len = block_rows(columns) * columns;
    let blocks = out.len().div_ceil(block_len);
    let set = (part_mut(out, block_len), x.map(|x| part(x, block_len)), hidden.map(|x| part(x, block_len)));
    for_each(blocks, set, |_, (mut out, x, hidden)| {
        vectorize(
            #[inline(always)]
            || {
                if let Some(x) = &x {
                    out.copy_from_slice(x);
                }
                if let Some(hidden) = &hidden {
                    hide(&mut out, hidden);
                }
                for row in out.chunks_exact_mut(columns) {
                    if log {
                        let top = max(row, row[0]);
                        let log_total = sum_of(row, row, |x, _| (x - top).exp()).ln();
                        // In this order: beside a top of -1e30 the logarithm would vanish.
                        row.iter_mut().for_each(|x| *x = (*x - top) - log_total);
                    } else {
                        let [_, total] = exponentials(row);
                        let inverse = R::ONE / total;
                        row.iter_mut().for_each(|x| *x *= inverse);
                    }
                }
            },
        );
    });
}

/// `dx (=|+=) (1 - hidden) y (dy - sum of y dy)`.
pub fn softmax_grad<R: Real>(dx: &mut [R], write: Write, y: &[R], dy: &[R], hidden: Option<&[R]>, columns: usize) {
    if dx.is_empty() {
        return;
    }
    let block_len = block_rows(columns) * columns;
    let blocks = dx.len().div_ceil(block_len);
    let set = (part_mut(dx, block_len), part(y, block_len), part(dy, block_len), hidden.map(|x| part(x, block_len)));
    for_each(blocks, set, |_, (mut dx, y, dy, hidden)| {
        vectorize(
            #[inline(always)]
            || {
                for (r, dx) in dx.chunks_exact_mut(columns).enumerate() {
                    let row = r * columns;
                    let (y, dy) = (&y[row..][..columns], &dy[row..][..columns]);
                    let along = sum_of(y, dy, |y, dy| y * dy);
                    for (c, ((dx, &y), &dy)) in dx.iter_mut().zip(y).zip(dy).enumerate() {
                        let mut d = y * (dy - along);
                        if let Some(hidden) = &hidden {
                            d *= R::ONE - hidden[row + c];
                        }
                        *dx = if write == Write::Add { *dx + d } else { d };
                    }
                }
            },
        );
    });
}

/// What [`softmax_cross_entropy`] computes from: labels are in range.
pub struct Labelled<'a, R> {
    /// `None`: they lie in `dlogits`.
    pub logits: Option<&'a [R]>, // [R, C]
    pub hidden: Option<&'a [R]>, // [R, C]
    pub labels: &'a [i32],       // [R]
    pub weights: &'a [R],        // [R]
}

/// The weighted loss; `row_loss` and `dlogits` are set. See [`crate::op::SoftmaxCrossEntropy`].
pub fn softmax_cross_entropy<R: Real>(
    row_loss: Option<&mut [R]>,
    dlogits: Option<&mut [R]>,
    inputs: &Labelled<'_, R>,
    columns: usize,
) -> f64 {
    let rows = inputs.labels.len();
    let per = block_rows(columns);
    let block_len = per * columns;
    let set = (
        row_loss.map(|x| part_mut(x, per)),
        dlogits.map(|x| part_mut(x, block_len)),
        inputs.logits.map(|x| part(x, block_len)),
        inputs.hidden.map(|x| part(x, block_len)),
        (part(inputs.labels, per), part(inputs.weights, per)),
    );
    blocks::sum(rows.div_ceil(per), set, |_, (mut row_loss, mut dlogits, logits, hidden, (labels, weights))| {
        vectorize(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for (r, (&label, &weight)) in labels.iter().zip(&*weights).enumerate() {
                    let row = r * columns..(r + 1) * columns;
                    let label = label as usize;
                    let logits = logits.as_deref().map(|x| &x[row.clone()]);
                    let hidden = hidden.as_deref().map(|x| &x[row.clone()]);
                    let loss = match (&mut dlogits, logits) {
                        (Some(d), logits) => with_gradient(&mut d[row], logits, hidden, label, weight),
                        (None, Some(logits)) => without_gradient(logits, hidden, label),
                        (None, None) => R::ZERO, // no logits at all
                    };
                    if let Some(row_loss) = &mut row_loss {
                        row_loss[r] = loss;
                    }
                    total += weight.to_f64() * loss.to_f64();
                }
                total
            },
        )
    })
}

/// Loss of one row; `d` becomes the gradient of its logits, which it holds before when `logits` is absent.
#[inline(always)]
fn with_gradient<R: Real>(d: &mut [R], logits: Option<&[R]>, hidden: Option<&[R]>, label: usize, weight: R) -> R {
    if let Some(logits) = logits {
        d.copy_from_slice(logits);
    }
    if let Some(hidden) = hidden {
        hide(d, hidden);
    }
    let own = d[label];
    let [top, total] = exponentials(d);
    let factor = weight / total;
    d.iter_mut().for_each(|d| *d *= factor);
    d[label] -= weight;
    if let Some(hidden) = hidden {
        for (d, &hidden) in d.iter_mut().zip(hidden) {
            *d *= R::ONE - hidden;
        }
    }
    (top - own) + total.ln()
}

/// Loss of one row.
#[inline(always)]
fn without_gradient<R: Real>(logits: &[R], hidden: Option<&[R]>, label: usize) -> R {
    let Some(hidden) = hidden else {
        let top = max(logits, logits[0]);
        return (top - logits[label]) + sum_of(logits, logits, |x, _| (x - top).exp()).ln();
    };
    let barred = R::from_f64(BARRED);
    let value = |x: R, hidden: R| x * (R::ONE - hidden) - barred * hidden;
    let mut top = value(logits[0], hidden[0]);
    for (&x, &hidden) in logits.iter().zip(hidden) {
        let x = value(x, hidden);
        top = if x > top { x } else { top };
    }
    let total = sum_of(logits, hidden, |x, hidden| (value(x, hidden) - top).exp());
    (top - value(logits[label], hidden[label])) + total.ln()
}

/// The weighted loss of single numbers; `row_loss` and `dx` are set.
pub fn element_loss<R: Real>(
    row_loss: Option<&mut [R]>,
    dx: Option<&mut [R]>,
    kind: ElementLossKind,
    x: &[R],
    labels: &[R],
    weights: &[R],
) -> f64 {
    let inputs = (part(x, BLOCK), part(labels, BLOCK), part(weights, BLOCK));
    let set = (row_loss.map(|x| part_mut(x, BLOCK)), dx.map(|x| part_mut(x, BLOCK)), inputs);
    blocks::sum(x.len().div_ceil(BLOCK), set, |_, (mut row_loss, mut dx, (x, labels, weights))| {
        let mut total = 0.0;
        for (r, ((&x, &label), &weight)) in x.iter().zip(&*labels).zip(&*weights).enumerate() {
            let [loss, slope] = element(kind, x, label);
            if let Some(row_loss) = &mut row_loss {
                row_loss[r] = loss;
            }
            if let Some(dx) = &mut dx {
                dx[r] = weight * slope;
            }
            total += weight.to_f64() * loss.to_f64();
        }
        total
    })
}

/// Loss and slope.
fn element<R: Real>(kind: ElementLossKind, x: R, label: R) -> [R; 2] {
    match kind {
        ElementLossKind::SquaredError => [(x - label) * (x - label), (x - label) + (x - label)],
        ElementLossKind::SigmoidCrossEntropy => {
            // e = exp(-|x|) is at most 1, so nothing overflows.
            let positive = x > R::ZERO;
            let e = if positive { -x } else { x }.exp();
            let sigmoid = if positive { R::ONE } else { e } / (R::ONE + e);
            let log = R::from_f64(e.to_f64().ln_1p());
            [if positive { x } else { R::ZERO } - x * label + log, sigmoid - label]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, salt: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f64 / 252.25 - 2.0).collect()
    }
    fn close(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "element {i}: {got}, expected {want}");
        }
    }
    /// Every third column is barred, but never column 0.
    fn barred(n: usize, columns: usize) -> Vec<f64> {
        (0..n).map(|i| f64::from(u8::from(i % columns % 3 == 1))).collect()
    }
    fn probabilities(x: &[f64], hidden: Option<&[f64]>, columns: usize) -> Vec<f64> {
        let visible = |i: usize| hidden.is_none_or(|h| h[i] == 0.0);
        let e: Vec<f64> = x.iter().enumerate().map(|(i, x)| if visible(i) { x.exp() } else { 0.0 }).collect();
        e.chunks(columns).flat_map(|row| row.iter().map(|e| e / row.iter().sum::<f64>())).collect()
    }
    const SIZES: [(usize, usize); 7] = [(1, 1), (3, 1), (1, 17), (17, 3), (3, 33), (33, 17), (5, 9001)];

    #[test]
    fn softmax_and_its_logarithm() {
        for (rows, columns) in SIZES {
            let (x, h) = (numbers(rows * columns, 1), barred(rows * columns, columns));
            for hidden in [None, Some(&h[..])] {
                let want = probabilities(&x, hidden, columns);
                let mut out = vec![f64::NAN; x.len()];
                softmax(&mut out, Some(&x), hidden, columns, false);
                close(&out, &want, 1e-13);
                let mut same = x.clone();
                softmax(&mut same, None, hidden, columns, true);
                close(&same.iter().map(|x| x.exp()).collect::<Vec<_>>(), &want, 1e-12);
                let mut narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let narrow_hidden: Option<Vec<f32>> = hidden.map(|h| h.iter().map(|&h| h as f32).collect());
                softmax(&mut narrow, None, narrow_hidden.as_deref(), columns, false);
                close(&narrow.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), &want, 2e-6);
            }
        }
    }

    #[test]
    fn softmax_gradient() {
        for (rows, columns) in SIZES {
            let n = rows * columns;
            let (x, dy, h) = (numbers(n, 1), numbers(n, 2), barred(n, columns));
            let y = probabilities(&x, Some(&h), columns);
            let want: Vec<f64> = (0..n)
                .map(|i| {
                    let row = i / columns * columns;
                    let along: f64 = (row..row + columns).map(|c| y[c] * dy[c]).sum();
                    (1.0 - h[i]) * y[i] * (dy[i] - along)
                })
                .collect();
            let mut dx = vec![f64::NAN; n];
            softmax_grad(&mut dx, Write::Set, &y, &dy, Some(&h), columns);
            close(&dx, &want, 1e-13);
            softmax_grad(&mut dx, Write::Add, &y, &dy, Some(&h), columns);
            close(&dx, &want.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), 1e-13);
        }
    }

    #[test]
    fn cross_entropy_and_its_gradient() {
        for (rows, columns) in SIZES {
            let n = rows * columns;
            let (x, h, weights) = (numbers(n, 1), barred(n, columns), numbers(rows, 3));
            let labels: Vec<i32> = (0..rows).map(|r| (r * 3 % columns / 3 * 3) as i32).collect();
            for hidden in [None, Some(&h[..])] {
                let p = probabilities(&x, hidden, columns);
                let losses: Vec<f64> = (0..rows).map(|r| -p[r * columns + labels[r] as usize].ln()).collect();
                let loss: f64 = losses.iter().zip(&weights).map(|(l, w)| l * w).sum();
                let gradient: Vec<f64> = (0..n)
                    .map(|i| {
                        let own = labels[i / columns] as usize == i % columns;
                        weights[i / columns] * (p[i] - f64::from(u8::from(own)))
                    })
                    .collect();
                let inputs = Labelled { logits: Some(&x[..]), hidden, labels: &labels, weights: &weights };
                let (mut row_loss, mut d) = (vec![f64::NAN; rows], vec![f64::NAN; n]);
                close(&[softmax_cross_entropy(Some(&mut row_loss), None, &inputs, columns)], &[loss], 1e-12);
                close(&row_loss, &losses, 1e-12);
                row_loss.fill(f64::NAN);
                close(&[softmax_cross_entropy(Some(&mut row_loss), Some(&mut d), &inputs, columns)], &[loss], 1e-12);
                close(&row_loss, &losses, 1e-12);
                close(&d, &gradient, 1e-12);
                let mut same = x.clone();
                let inputs = Labelled { logits: None, ..inputs };
                close(&[softmax_cross_entropy(None, Some(&mut same), &inputs, columns)], &[loss], 1e-12);
                assert_eq!(same, d);
            }
        }
    }

    #[test]
    fn losses_of_single_numbers() {
        use ElementLossKind::*;
        for n in [1, 3, 17, 33, BLOCK + 1] {
            let (x, labels) = (numbers(n, 1), (0..n).map(|i| (i % 2) as f64).collect::<Vec<_>>());
            let weights = vec![0.5; n];
            for kind in [SquaredError, SigmoidCrossEntropy] {
                let f = |x: f64, label: f64| match kind {
                    SquaredError => (x - label).powi(2),
                    SigmoidCrossEntropy => {
                        -label * (1.0 / (1.0 + (-x).exp())).ln() + (1.0 - label) * (1.0 + x.exp()).ln()
                    }
                };
                let (mut row_loss, mut dx) = (vec![f64::NAN; n], vec![f64::NAN; n]);
                let loss = element_loss(Some(&mut row_loss), Some(&mut dx), kind, &x, &labels, &weights);
                let want: Vec<f64> = x.iter().zip(&labels).map(|(&x, &l)| f(x, l)).collect();
                close(&row_loss, &want, 1e-12);
                close(&[loss], &[0.5 * want.iter().sum::<f64>()], 1e-12);
                let slopes: Vec<f64> =
                    x.iter().zip(&labels).map(|(&x, &l)| (f(x + 1e-5, l) - f(x - 1e-5, l)) / 4e-5).collect();
                close(&dx, &slopes, 1e-8);
            }
        }
        for x in [-1000f32, 1000.0] {
            let [loss, slope] = element(SigmoidCrossEntropy, x, 0.0);
            assert_eq!([loss, slope], [x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }]);
        }
    }
}
