//! Activations, threaded over flat blocks and vectorised.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::blocks::{BLOCK, for_each, part, part_mut};
use super::dropout::DropoutMask;
use super::real::Real;
use super::vector::vectorize;
use crate::op::ActivationKind;

/// Elements that stay in the first-level cache from the copy to the dropout.
const CHUNK: usize = 1024;
const _: () = assert!(BLOCK.is_multiple_of(CHUNK));

/// sqrt(2/pi), the inner factor of the tanh form of gelu.
const TANH_FACTOR: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const CUBIC: f64 = 0.044715;

/// `out = dropout(f(x))`; without `x`, `out` is changed in place.
pub fn activation<R: Real>(out: &mut [R], x: Option<&[R]>, kind: ActivationKind, mask: Option<DropoutMask<'_>>) {
    let blocks = out.len().div_ceil(BLOCK);
    for_each(blocks, (part_mut(out, BLOCK), x.map(|x| part(x, BLOCK))), |block, (mut out, x)| {
        vectorize(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_mut(CHUNK).enumerate() {
                    if let Some(x) = &x {
                        out.copy_from_slice(&x[i * CHUNK..][..out.len()]);
                    }
                    forward(out, kind);
                    if let Some(mask) = mask {
                        mask.apply(block * BLOCK + i * CHUNK, out);
                    }
                }
            },
        );
    });
}

/// `dx = f'(x) * mask * dout`; without `dout`, `dx` holds it and is changed in place.
pub fn activation_grad<R: Real>(
    dx: &mut [R],
    x: &[R],
    dout: Option<&[R]>,
    kind: ActivationKind,
    mask: Option<DropoutMask<'_>>,
) {
    let blocks = dx.len().div_ceil(BLOCK);
    let set = (part_mut(dx, BLOCK), part(x, BLOCK), dout.map(|dout| part(dout, BLOCK)));
    for_each(blocks, set, |block, (mut dx, x, dout)| {
        vectorize(
            #[inline(always)]
            || {
                for (i, dx) in dx.chunks_mut(CHUNK).enumerate() {
                    if let Some(dout) = &dout {
                        dx.copy_from_slice(&dout[i * CHUNK..][..dx.len()]);
                    }
                    backward(dx, &x[i * CHUNK..], kind);
                    if let Some(mask) = mask {
                        mask.apply(block * BLOCK + i * CHUNK, dx);
                    }
                }
            },
        );
    });
}

/// `x = f(x)`.
#[inline(always)]
fn forward<R: Real>(x: &mut [R], kind: ActivationKind) {
    let c = R::from_f64;
    let (half, factor, cubic, root) = (c(0.5), c(TANH_FACTOR), c(CUBIC), c(FRAC_1_SQRT_2));
    match kind {
        ActivationKind::GeluTanh => {
            for x in x {
                let u = factor * (*x * *x * cubic).mul_add(*x, *x);
                *x = half * *x * (R::ONE + u.tanh());
            }
        }
        ActivationKind::GeluErf => {
            for x in x {
                *x = half * *x * (R::ONE + (*x * root).erf());
            }
        }
        ActivationKind::Relu => {
            for x in x {
                *x = if *x < R::ZERO { R::ZERO } else { *x };
            }
        }
        ActivationKind::Tanh => {
            for x in x {
                *x = x.tanh();
            }
        }
    }
}

/// `d *= f'(x)`.
#[inline(always)]
fn backward<R: Real>(d: &mut [R], x: &[R], kind: ActivationKind) {
    let c = R::from_f64;
    let (half, factor, cubic, root) = (c(0.5), c(TANH_FACTOR), c(CUBIC), c(FRAC_1_SQRT_2));
    let (three_cubic, density) = (c(3.0 * CUBIC), c(0.5 * TANH_FACTOR)); // 1 / sqrt(2 pi)
    match kind {
        ActivationKind::GeluTanh => {
            for (d, &x) in d.iter_mut().zip(x) {
                let t = (factor * (x * x * cubic).mul_add(x, x)).tanh();
                let slope = factor * (x * x).mul_add(three_cubic, R::ONE);
                *d *= half * ((R::ONE + t) + x * (R::ONE - t * t) * slope);
            }
        }
        ActivationKind::GeluErf => {
            for (d, &x) in d.iter_mut().zip(x) {
                *d *= half * (R::ONE + (x * root).erf()) + x * density * (-half * x * x).exp();
            }
        }
        ActivationKind::Relu => {
            for (d, &x) in d.iter_mut().zip(x) {
                *d *= if x > R::ZERO { R::ONE } else { R::ZERO };
            }
        }
        ActivationKind::Tanh => {
            for (d, &x) in d.iter_mut().zip(x) {
                let t = x.tanh();
                *d *= R::ONE - t * t;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::DropoutSite;
    use crate::tensor::TensorId;
    use ActivationKind::*;

    fn numbers(n: usize) -> Vec<f64> {
        (0..n).map(|i| i as f64 * 0.37 % 6.0 - 3.0).collect()
    }
    fn f(kind: ActivationKind, x: f64) -> f64 {
        match kind {
            GeluTanh => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh()),
            GeluErf => 0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt())),
            Relu => x.max(0.0),
            Tanh => x.tanh(),
        }
    }

    #[test]
    fn values_and_slopes() {
        for kind in [GeluTanh, GeluErf, Relu, Tanh] {
            for n in [1, 3, 17, 33, BLOCK + 9] {
                let x = numbers(n);
                let narrow: Vec<f32> = x.iter().map(|&x| x as f32).collect();
                let (mut out, mut out32) = (vec![f64::NAN; n], narrow.clone());
                activation(&mut out, Some(&x), kind, None);
                activation(&mut out32, None, kind, None);
                let mut dx = vec![2.0; n];
                activation_grad(&mut dx, &x, None, kind, None);
                let mut dx32 = vec![f32::NAN; n];
                activation_grad(&mut dx32, &narrow, Some(&vec![2.0; n]), kind, None);
                for (i, &x) in x.iter().enumerate() {
                    assert!((out[i] - f(kind, x)).abs() < 1e-12);
                    assert!((f64::from(out32[i]) - f(kind, x)).abs() < 2e-6);
                    if kind == Relu && x.abs() < 1e-3 {
                        continue; // no slope at 0
                    }
                    let h = 1e-5;
                    let slope = (f(kind, x + h) - f(kind, x - h)) / (2.0 * h);
                    assert!((dx[i] - 2.0 * slope).abs() < 1e-8, "{kind:?} {x}: {} {slope}", dx[i]);
                    assert!((f64::from(dx32[i]) - 2.0 * slope).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn forward_and_backward_drop_the_same() {
        let n = BLOCK + 2 * CHUNK + 3;
        let site = DropoutSite { key: TensorId(0), site: 1, rate: 0.3, lead: 1 };
        let mask = DropoutMask::new(&[5, 6, 9], site, [1, n]).unwrap();
        let (mut out, mut dx) = (vec![1.0f32; n], vec![1.0f32; n]);
        activation(&mut out, None, Relu, Some(mask));
        activation_grad(&mut dx, &vec![1.0; n], None, Relu, Some(mask));
        let mut want = vec![1.0f32; n];
        mask.apply(0, &mut want);
        assert!(want.contains(&0.0));
        assert_eq!(out, want);
        assert_eq!(dx, want);
    }

    #[test]
    fn not_a_number_stays() {
        let mut x = [f64::NAN];
        activation(&mut x, None, Relu, None);
        assert!(x[0].is_nan());
    }
}
