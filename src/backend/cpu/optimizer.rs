//! Norms and Adam: one pass over memory each.

use super::blocks::{self, BLOCK, for_each, part, part_mut, sum_of};
use super::real::Real;
use super::vector::vectorize;
use crate::op::Adam;

/// Elements that are summed in their own precision before the f64 sum.
const CHUNK: usize = 1024;

/// Sum of the squares; chunks of 1024 elements are added up in f64.
pub fn square_norm<R: Real>(x: &[R]) -> f64 {
    blocks::sum(x.len().div_ceil(BLOCK), part(x, BLOCK), |_, x| {
        vectorize(
            #[inline(always)]
            || {
                x.chunks(CHUNK)
                    .map(
                        #[inline(always)]
                        |x| sum_of(x, x, |a, b| a * b).to_f64(),
                    )
                    .sum()
            },
        )
    })
}

/// One parameter's step; see [`Adam`] for the formula and the order of `hyper`.
pub fn adam<R: Real>(op: &Adam, param: &mut [R], m: &mut [R], v: &mut [R], grad: &[R], square_norm: R, hyper: &[R]) {
    let [lr, clip, beta1, beta2, eps, weight_decay, rescale] = std::array::from_fn(|i| hyper[i]);
    let norm = square_norm.sqrt();
    if !norm.to_f64().is_finite() {
        return;
    }
    let norm = norm * rescale;
    let clipped = if clip > R::ZERO && norm > clip { clip / norm } else { R::ONE };
    let g_scale = R::from_f64(f64::from(op.grad_scale)) * rescale * clipped;
    let rate = lr * R::from_f64(f64::from(op.lr_scale));
    let decay = if op.decays { weight_decay } else { R::ZERO };
    let (one_minus1, one_minus2) = (R::ONE - beta1, R::ONE - beta2);
    let set = (part_mut(param, BLOCK), part_mut(m, BLOCK), part_mut(v, BLOCK), part(grad, BLOCK));
    for_each(grad.len().div_ceil(BLOCK), set, |_, (mut param, mut m, mut v, grad)| {
        vectorize(
            #[inline(always)]
            || {
                for (((p, m), v), &g) in param.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(&*grad) {
                    let g = g * g_scale;
                    *m = beta1.mul_add(*m, one_minus1 * g);
                    *v = beta2.mul_add(*v, one_minus2 * g * g);
                    *p -= rate * (*m / (v.sqrt() + eps) + decay * *p);
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorId;

    #[test]
    fn norms() {
        for n in [0, 1, 3, 17, 33, 3 * BLOCK + 7] {
            assert_eq!(square_norm(&vec![2.0f32; n]), 4.0 * n as f64);
            assert_eq!(square_norm(&vec![-3.0f64; n]), 9.0 * n as f64);
        }
    }

    #[test]
    fn steps() {
        let id = TensorId(0);
        for decays in [false, true] {
            let op = Adam {
                param: id,
                grad: id,
                m: id,
                v: id,
                square_norm: id,
                hyper: id,
                decays,
                grad_scale: 0.5,
                lr_scale: 0.25,
            };
            for (clip, norm) in [(0.0, 3.0), (1.0, 4.0), (5.0, 4.0)] {
                for (n, scale) in [(1, 1.0), (3, 1024.0), (17, 0.5), (33, 1.0), (BLOCK + 1, 3.0)] {
                    let (mut p, mut m, mut v) = (vec![1.0f64; n], vec![0.2; n], vec![0.3; n]);
                    let (grad, scaled) = (vec![2.0 * scale; n], norm * scale);
                    let hyper = [0.1, clip, 0.9, 0.99, 1e-6, 0.01, 1.0 / scale];
                    adam(&op, &mut p, &mut m, &mut v, &grad, scaled * scaled, &hyper);
                    let g = 2.0 * 0.5 * if clip == 1.0 { 0.25 } else { 1.0 };
                    let (wm, wv) = (0.9 * 0.2 + 0.1 * g, 0.99 * 0.3 + 0.01 * g * g);
                    let wp = 1.0 - 0.1 * 0.25 * (wm / (f64::sqrt(wv) + 1e-6) + if decays { 0.01 } else { 0.0 });
                    for i in [0, n - 1] {
                        assert!((p[i] - wp).abs() < 1e-12 && (m[i] - wm).abs() < 1e-12 && (v[i] - wv).abs() < 1e-12);
                    }
                }
            }
        }
    }
}
