//! Layer normalisation with residual sum and dropout, and its gradient.

use super::blocks::{for_each, part, part_mut, rows_per_block, sum_of};
use super::dropout::DropoutMask;
use super::real::Real;
use super::vector::{add, axpy, sum as sum_row, vectorize};
use crate::op::Write;

/// Forward; see [`crate::op::LayerNorm`]. Without `x`, it lies in `sum` (in `out` when there is no `sum`).
pub fn layer_norm<R: Real>(
    out: &mut [R],          // [R, d]
    sum: Option<&mut [R]>,  // [R, d]
    mean: Option<&mut [R]>, // [R]
    rstd: Option<&mut [R]>, // [R]
    x: Option<&[R]>,        // [R, d]
    residual: Option<&[R]>, // [R, d]
    gamma: &[R],            // [d]
    beta: &[R],             // [d]
    eps: f32,
    mask: Option<DropoutMask<'_>>,
) {
    let d = gamma.len();
    let (rows, block_rows) = (out.len() / d, rows_per_block(d));
    let block_len = block_rows * d;
    let inputs = (x.map(|x| part(x, block_len)), residual.map(|x| part(x, block_len)));
    let statistics = (mean.map(|x| part_mut(x, block_rows)), rstd.map(|x| part_mut(x, block_rows)));
    let set = (inputs, statistics, sum.map(|sum| part_mut(sum, block_len)), part_mut(out, block_len));
    let (eps, d_inverse) = (R::from_f64(f64::from(eps)), R::from_f64(1.0 / d as f64));
    for_each(rows.div_ceil(block_rows), set, |block, ((x, residual), (mut mean, mut rstd), mut sum, mut out)| {
        vectorize(
            #[inline(always)]
            || {
                let target = sum.as_deref_mut().unwrap_or(&mut out);
                if let Some(x) = &x {
                    target.copy_from_slice(x);
                }
                if let Some(mask) = mask {
                    mask.apply(block * block_len, target);
                }
                if let Some(residual) = &residual {
                    add(target, residual);
                }
                if let Some(sum) = &sum {
                    out.copy_from_slice(sum);
                }
                for (r, row) in out.chunks_exact_mut(d).enumerate() {
                    let center = sum_row(row) * d_inverse;
                    let variance = sum_of(row, row, |x, _| (x - center) * (x - center)) * d_inverse;
                    let scale = R::ONE / (variance + eps).sqrt();
                    for ((x, &gamma), &beta) in row.iter_mut().zip(gamma).zip(beta) {
                        *x = ((*x - center) * scale).mul_add(gamma, beta);
                    }
                    if let Some(mean) = &mut mean {
                        mean[r] = center;
                    }
                    if let Some(rstd) = &mut rstd {
                        rstd[r] = scale;
                    }
                }
            },
        );
    });
}

/// At most this many partial sums of `dgamma` and `dbeta`.
const PARTIALS: usize = 32;

/// Rows of one partial sum, a multiple of 8.
fn partial_rows(rows: usize, d: usize) -> usize {
    rows.div_ceil(PARTIALS).next_multiple_of(8).max(rows_per_block(d))
}

/// Elements of workspace of [`layer_norm_grad`].
pub fn grad_workspace_len(rows: usize, d: usize) -> usize {
    rows.div_ceil(partial_rows(rows, d)) * 2 * d
}

/// Gradient; see [`crate::op::LayerNormGrad`]. Without `dout`, it lies in `dsum`.
pub fn layer_norm_grad<R: Real>(
    dsum: &mut [R],                          // [R, d]
    dx: Option<(&mut [R], DropoutMask<'_>)>, // [R, d]
    dgamma: Option<(&mut [R], Write)>,       // [d]
    dbeta: Option<(&mut [R], Write)>,        // [d]
    dout: Option<&[R]>,                      // [R, d]
    sum: &[R],                               // [R, d]
    mean: &[R],                              // [R]
    rstd: &[R],                              // [R]
    gamma: &[R],                             // [d]
    workspace: &mut [R],
) {
    let d = gamma.len();
    let rows = dsum.len() / d;
    let block_rows = partial_rows(rows, d);
    let block_len = block_rows * d;
    let partials = &mut workspace[..grad_workspace_len(rows, d)];
    let (dx, mask) = dx.unzip();
    let outputs = (part_mut(dsum, block_len), dx.map(|dx| part_mut(dx, block_len)), part_mut(partials, 2 * d));
    let statistics = (part(mean, block_rows), part(rstd, block_rows));
    let set = (outputs, statistics, dout.map(|dout| part(dout, block_len)), part(sum, block_len));
    let d_inverse = R::from_f64(1.0 / d as f64);
    for_each(rows.div_ceil(block_rows), set, |block, ((mut dsum, mut dx, mut partial), (mean, rstd), dout, sum)| {
        vectorize(
            #[inline(always)]
            || {
                partial.fill(R::ZERO);
                let half = partial.len() / 2; // d, or 0 where there are no rows
                let (partial_gamma, partial_beta) = partial.split_at_mut(half);
                if let Some(dout) = &dout {
                    dsum.copy_from_slice(dout);
                }
                for (r, (g, sum)) in dsum.chunks_exact_mut(d).zip(sum.chunks_exact(d)).enumerate() {
                    let (center, scale) = (mean[r], rstd[r]);
                    for ((p, &g), &s) in partial_gamma.iter_mut().zip(&*g).zip(sum) {
                        *p = ((s - center) * scale).mul_add(g, *p);
                    }
                    add(partial_beta, g);
                    for (g, &gamma) in g.iter_mut().zip(gamma) {
                        *g *= gamma;
                    }
                    // dsum = rstd (g - mean(g) - xhat mean(g xhat))
                    let along_one = sum_row(g) * d_inverse;
                    let along_x = sum_of(g, sum, |g, s| g * (s - center)) * d_inverse * scale * scale;
                    for (g, &s) in g.iter_mut().zip(sum) {
                        *g = scale * (*g - along_one - (s - center) * along_x);
                    }
                }
                if let (Some(dx), Some(mask)) = (&mut dx, mask) {
                    dx.copy_from_slice(&dsum);
                    mask.apply(block * block_len, dx);
                }
            },
        );
    });
    for (target, first) in [(dgamma, 0), (dbeta, d)] {
        if let Some((target, write)) = target {
            add_partials(target, write, partials.chunks_exact(2 * d).map(|partial| &partial[first..][..d]));
        }
    }
}

/// `out (=|+=)` the sum of the partial rows, in their order.
pub fn add_partials<'p, R: Real>(out: &mut [R], write: Write, partials: impl Iterator<Item = &'p [R]>) {
    if write == Write::Set {
        out.fill(R::ZERO);
    }
    for partial in partials {
        axpy(out, R::ONE, partial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::DropoutSite;
    use crate::tensor::TensorId;

    fn numbers(n: usize, salt: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f64 / 504.5 - 1.0).collect()
    }
    const SIZES: [(usize, usize); 7] = [(1, 1), (3, 1), (1, 17), (3, 33), (17, 3), (33, 17), (700, 65)];

    fn mask(rows: usize, d: usize) -> DropoutMask<'static> {
        let site = DropoutSite { key: TensorId(0), site: 1, rate: 0.3, lead: rows };
        DropoutMask::new(&[5, 6, 7], site, [rows, d]).unwrap()
    }

    /// Sum, mean, rstd and result by the definition.
    fn naive(x: &[f64], residual: &[f64], gamma: &[f64], beta: &[f64], mask: Option<DropoutMask<'_>>) -> [Vec<f64>; 4] {
        let d = gamma.len();
        let mut sum = x.to_vec();
        if let Some(mask) = mask {
            mask.apply(0, &mut sum);
        }
        sum.iter_mut().zip(residual).for_each(|(s, r)| *s += r);
        let (mut mean, mut rstd, mut out) = (vec![], vec![], vec![]);
        for row in sum.chunks(d) {
            let m = row.iter().sum::<f64>() / d as f64;
            let v = row.iter().map(|x| (x - m).powi(2)).sum::<f64>() / d as f64;
            let s = 1.0 / (v + f64::from(1e-3f32)).sqrt();
            out.extend((0..d).map(|i| (row[i] - m) * s * gamma[i] + beta[i]));
            mean.push(m);
            rstd.push(s);
        }
        [sum, mean, rstd, out]
    }
    fn close(got: &[f64], want: &[f64], tolerance: f64) {
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "element {i}: {got}, expected {want}");
        }
    }

    #[test]
    fn forward_with_and_without_sum_in_place_or_not() {
        for (rows, d) in SIZES {
            let n = rows * d;
            let (x, residual, gamma, beta) = (numbers(n, 1), numbers(n, 2), numbers(d, 3), numbers(d, 4));
            for mask in [None, Some(mask(rows, d))] {
                let [sum, mean, rstd, want] = naive(&x, &residual, &gamma, &beta, mask);
                let (mut out, mut got_sum) = (vec![f64::NAN; n], x.clone());
                let (mut got_mean, mut got_rstd) = (vec![f64::NAN; rows], vec![f64::NAN; rows]);
                let statistics = (Some(&mut got_mean[..]), Some(&mut got_rstd[..]));
                let (m, s) = statistics;
                layer_norm(&mut out, Some(&mut got_sum), m, s, None, Some(&residual), &gamma, &beta, 1e-3, mask);
                close(&out, &want, 1e-11);
                close(&got_sum, &sum, 0.0);
                close(&got_mean, &mean, 1e-13);
                close(&got_rstd, &rstd, 1e-11);
                out.fill(f64::NAN);
                layer_norm(&mut out, None, None, None, Some(&x), Some(&residual), &gamma, &beta, 1e-3, mask);
                close(&out, &want, 1e-11);
            }
            let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
            let mut out = narrow(&x);
            layer_norm(&mut out, None, None, None, None, None, &narrow(&gamma), &narrow(&beta), 1e-3, None);
            let [.., want] = naive(&x, &vec![0.0; n], &gamma, &beta, None);
            close(&out.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), &want, 1e-4);
        }
    }

    #[test]
    fn gradient_is_the_slope() {
        for (rows, d) in SIZES {
            let n = rows * d;
            let (x, residual, gamma, beta) = (numbers(n, 1), numbers(n, 2), numbers(d, 3), numbers(d, 4));
            let dout = numbers(n, 5);
            let mask = mask(rows, d);
            let loss = |x: &[f64], residual: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                naive(x, residual, gamma, beta, Some(mask))[3].iter().zip(&dout).map(|(a, b)| a * b).sum()
            };
            let [sum, mean, rstd, _] = naive(&x, &residual, &gamma, &beta, Some(mask));
            let mut workspace = vec![f64::NAN; grad_workspace_len(rows, d)];
            let (mut dsum, mut dx, mut dgamma, mut dbeta) =
                (dout.clone(), vec![f64::NAN; n], vec![f64::NAN; d], vec![10.0; d]);
            layer_norm_grad(
                &mut dsum,
                Some((&mut dx, mask)),
                Some((&mut dgamma, Write::Set)),
                Some((&mut dbeta, Write::Add)),
                None,
                &sum,
                &mean,
                &rstd,
                &gamma,
                &mut workspace,
            );
            let mut apart = vec![f64::NAN; n];
            layer_norm_grad(&mut apart, None, None, None, Some(&dout), &sum, &mean, &rstd, &gamma, &mut workspace);
            assert_eq!(apart, dsum);
            let slope = |values: &[f64], at: usize, f: &dyn Fn(&[f64]) -> f64| {
                let mut moved = values.to_vec();
                moved[at] = values[at] + 1e-4;
                let up = f(&moved);
                moved[at] = values[at] - 1e-4;
                (up - f(&moved)) / 2e-4
            };
            for at in [0, n / 2, n - 1] {
                close(&dsum[at..=at], &[slope(&residual, at, &|r| loss(&x, r, &gamma, &beta))], 2e-5);
                close(&dx[at..=at], &[slope(&x, at, &|x| loss(x, &residual, &gamma, &beta))], 2e-5);
            }
            for at in [0, d - 1] {
                close(&dgamma[at..=at], &[slope(&gamma, at, &|g| loss(&x, &residual, g, &beta))], 1e-6);
                close(&dbeta[at..=at], &[10.0 + slope(&beta, at, &|b| loss(&x, &residual, &gamma, b))], 1e-6);
            }
        }
    }
}
