//! The two element types of the CPU backend: f32 to compute with, f64 to check with.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use bytemuck::Pod;
use pulp::Simd;

/// An element type: f32, whose functions are branch-free polynomials that LLVM turns into vector code inside
/// [`vector::dispatch`](super::vector::dispatch), or f64, whose functions are the exact ones of libm.
pub trait Real:
    Pod
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// One vector register of an instruction set.
    type Vector<S: Simd>: Copy;

    /// The nearest value.
    fn from_f64(x: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Natural logarithm (not vectorised).
    fn ln(self) -> Self;
    /// e^x; f32: relative error below 2e-7, 0 at -1e30, NaN stays NaN.
    fn exp(self) -> Self;
    /// Hyperbolic tangent; f32: absolute error below 5e-7.
    fn tanh(self) -> Self;
    /// Error function; f32: absolute error below 5e-7.
    fn erf(self) -> Self;

    /// `x` in every lane.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;
    /// `a * b + c` in every lane.
    fn vector_mul_add<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    /// The whole vectors of a slice; what is left over is not seen.
    fn vectors<S: Simd>(x: &[Self]) -> &[Self::Vector<S>];
    /// The whole vectors of a slice, to write.
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [Self::Vector<S>];
}

macro_rules! real {
    ($T:ident, $vector:ident, $splat:ident, $mul_add:ident, $as:ident, $as_mut:ident, $($function:item)*) => {
        impl Real for $T {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            type Vector<S: Simd> = S::$vector;

            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as Self
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                $T::mul_add(self, a, b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $T::sqrt(self)
            }
            #[inline(always)]
            fn ln(self) -> Self {
                $T::ln(self)
            }
            $($function)*

            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }
            #[inline(always)]
            fn vector_mul_add<S: Simd>(simd: S, a: S::$vector, b: S::$vector, c: S::$vector) -> S::$vector {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> &[S::$vector] {
                S::$as(x).0
            }
            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> &mut [S::$vector] {
                S::$as_mut(x).0
            }
        }
    };
}

real! {
    f32, f32s, splat_f32s, mul_add_e_f32s, as_simd_f32s, as_mut_simd_f32s,
    #[inline(always)]
    fn exp(self) -> f32 {
        // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the sum.
        const ROUND: f32 = 12_582_912.0;
        const LN2_HIGH: f32 = 0.693_359_4; // 355/512, exact products with integers below 2^15
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // Beyond these bounds the answer is 0 or infinity; comparisons let a NaN through.
        let x = if self < -104.0 { -104.0 } else { self };
        let x = if x > 89.0 { 89.0 } else { x };
        let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let n = rounded - ROUND;
        let r = n.mul_add(-LN2_HIGH, x);
        let r = n.mul_add(-LN2_LOW, r); // |r| <= ln(2)/2
        let p = 1.987_569_1e-4_f32;
        let p = p.mul_add(r, 1.398_2e-3);
        let p = p.mul_add(r, 8.333_452e-3);
        let p = p.mul_add(r, 4.166_579_6e-2);
        let p = p.mul_add(r, 0.166_666_66);
        let p = p.mul_add(r, 0.5);
        let p = p.mul_add(r * r, r) + 1.0;
        // 2^n as two factors, since n reaches from -150 to 128.
        let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        let half = n >> 1;
        let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
        p * power(half) * power(n.wrapping_sub(half))
    }
    #[inline(always)]
    fn tanh(self) -> f32 {
        let size = self.abs();
        let t = Real::exp(-2.0 * size);
        let far = ((1.0 - t) / (1.0 + t)).copysign(self);
        let z = self * self;
        let p = -5.704_988_7e-3_f32;
        let p = p.mul_add(z, 2.063_909e-2);
        let p = p.mul_add(z, -5.373_971_6e-2);
        let p = p.mul_add(z, 0.133_314_42);
        let p = p.mul_add(z, -0.333_332_8);
        let near = (p * z).mul_add(self, self);
        if size < 0.625 { near } else { far }
    }
    #[inline(always)]
    fn erf(self) -> f32 {
        let size = self.abs();
        // Abramowitz and Stegun 7.1.26, error below 1.5e-7.
        let t = 1.0 / 0.327_591_1_f32.mul_add(size, 1.0);
        let p = 1.061_405_4_f32;
        let p = p.mul_add(t, -1.453_152);
        let p = p.mul_add(t, 1.421_413_7);
        let p = p.mul_add(t, -0.284_496_74);
        let p = p.mul_add(t, 0.254_829_6);
        let far = (1.0 - p * t * Real::exp(-size * size)).copysign(self);
        // Odd polynomial below 1, where 1 - ... would lose relative accuracy.
        let z = self * self;
        let p = 7.853_861e-5_f32;
        let p = p.mul_add(z, -8.010_194e-4);
        let p = p.mul_add(z, 5.188_327_7e-3);
        let p = p.mul_add(z, -2.685_381_2e-2);
        let p = p.mul_add(z, 0.112_835_85);
        let p = p.mul_add(z, -0.376_126_26);
        let p = p.mul_add(z, std::f32::consts::FRAC_2_SQRT_PI);
        if size < 1.0 { p * self } else { far }
    }
}

real! {
    f64, f64s, splat_f64s, mul_add_e_f64s, as_simd_f64s, as_mut_simd_f64s,
    #[inline(always)]
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }
    #[inline(always)]
    fn erf(self) -> f64 {
        libm::erf(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error of `f` against `exact` over `[-range, range]`, relative where `relative`.
    fn error(range: f64, relative: bool, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> f64 {
        (-200_000..=200_000)
            .map(|i| (f64::from(i) / 200_000.0 * range) as f32)
            .map(|x| {
                let want = exact(f64::from(x));
                (f64::from(f(x)) - want).abs() / if relative { want } else { 1.0 }
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn f32_functions_are_accurate() {
        assert!(error(86.0, true, Real::exp, f64::exp) < 2e-7);
        assert!(error(0.5, true, Real::exp, f64::exp) < 2e-7);
        assert!(error(10.0, false, Real::tanh, f64::tanh) < 5e-7);
        assert!(error(6.0, false, Real::erf, libm::erf) < 5e-7);
    }

    #[test]
    fn f32_functions_at_the_borders() {
        let exp = <f32 as Real>::exp;
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
        assert!((f64::from(exp(88.5)) / 88.5f64.exp() - 1.0).abs() < 2e-7);
        assert!((f64::from(exp(-100.0)) - (-100f64).exp()).abs() < 2e-45); // a subnormal
        for x in [1e-30f32, 1e30, f32::INFINITY] {
            assert_eq!(<f32 as Real>::tanh(x), x.tanh());
            assert_eq!(<f32 as Real>::tanh(-x), (-x).tanh());
        }
        assert_eq!(<f32 as Real>::erf(f32::INFINITY), 1.0);
        assert_eq!(<f32 as Real>::erf(-1e30), -1.0);
        assert!(<f32 as Real>::tanh(f32::NAN).is_nan() && <f32 as Real>::erf(f32::NAN).is_nan());
    }
}
