//! Row arithmetic: loops that LLVM vectorises, run for the best instruction set of this machine.

use std::marker::PhantomData;
use std::sync::LazyLock;

use pulp::{Arch, Simd, WithSimd};

use super::real::Real;

static ARCH: LazyLock<Arch> = LazyLock::new(Arch::new);

/// Runs `kernel` compiled for the best instruction set found (AVX-512, AVX2 or the baseline).
#[inline(always)]
pub fn dispatch<K: WithSimd>(kernel: K) -> K::Output {
    ARCH.dispatch(kernel)
}

/// Runs `body` like [`dispatch`], for loops that LLVM vectorises.
///
/// Only code that is inlined here is compiled for the wider registers: the closure needs the attribute, as in
/// `vectorize(#[inline(always)] || ...)`, and so do the functions that it calls. (`FnMut`, because a closure called as
/// `FnOnce` goes through a shim that is not inlined.)
#[inline(always)]
pub fn vectorize<O>(body: impl FnMut() -> O) -> O {
    struct Body<F>(F);
    impl<O, F: FnMut() -> O> WithSimd for Body<F> {
        type Output = O;
        #[inline(always)]
        fn with_simd<S: Simd>(mut self, _: S) -> O {
            (self.0)()
        }
    }
    dispatch(Body(body))
}

/// Independent accumulators of a reduction: enough for two AVX-512 registers of f64, and the same order everywhere.
const LANES: usize = 16;

/// Folds `f` over 16 interleaved accumulators and these in a fixed tree, so that every instruction set adds in the same
/// order.
#[inline(always)]
fn reduce<R: Real>(x: &[R], start: R, f: impl Fn(R, R) -> R) -> R {
    let mut acc = [start; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            acc[lane] = f(acc[lane], chunk[lane]);
        }
    }
    for (acc, &x) in acc.iter_mut().zip(rest) {
        *acc = f(*acc, x);
    }
    tree(acc, f)
}

#[inline(always)]
fn tree<R: Real>(mut acc: [R; LANES], f: impl Fn(R, R) -> R) -> R {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            acc[lane] = f(acc[lane], acc[lane + width]);
        }
        width /= 2;
    }
    acc[0]
}

/// Largest element; `start` for an empty row.
#[inline(always)]
pub fn max<R: Real>(x: &[R], start: R) -> R {
    reduce(x, start, |a, b| if b > a { b } else { a })
}

/// Sum of the elements.
#[inline(always)]
pub fn sum<R: Real>(x: &[R]) -> R {
    reduce(x, R::ZERO, |a, b| a + b)
}

/// Sum of the products of two rows; what one has more than the other is ignored.
#[inline(always)]
pub fn dot<R: Real>(x: &[R], y: &[R]) -> R {
    let n = x.len().min(y.len());
    let (xs, x_rest) = x[..n].as_chunks::<LANES>();
    let (ys, y_rest) = y[..n].as_chunks::<LANES>();
    let mut acc = [R::ZERO; LANES];
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            acc[lane] = x[lane].mul_add(y[lane], acc[lane]);
        }
    }
    for (acc, (&x, &y)) in acc.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *acc = x.mul_add(y, *acc);
    }
    tree(acc, |a, b| a + b)
}

/// `y += a x`.
#[inline(always)]
pub fn axpy<R: Real>(y: &mut [R], a: R, x: &[R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = a.mul_add(x, *y);
    }
}

/// `y += x`.
#[inline(always)]
pub fn add<R: Real>(y: &mut [R], x: &[R]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// A slice that tasks on several threads write to, each its own elements.
///
/// Tensors with heads inside (`[B,L,H,D]`) interleave what different tasks own, so they cannot be split into `&mut`.
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shared` is a `&mut [T]` that hands out disjoint parts (see `slice`), so it may go where that may.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above; `slice` is the only access.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Takes the slice over for `'a`.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The first element, for writes that no slice can describe; they need the promise of [`Shared::slice`].
    pub fn as_ptr(&self) -> *mut T {
        self.start
    }

    /// The elements `first..first + len`; panics when they are not all inside.
    ///
    /// # Safety
    /// While the answer lives, no other part handed out may share an element with it.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    pub unsafe fn slice(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first, "part outside of the shared slice");
        // SAFETY: inside the borrowed slice by the assertion, not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_of_every_length() {
        for n in [0, 1, 15, 16, 17, 100] {
            let x: Vec<f64> = (0..n).map(|i| f64::from(i * 7 % 13) - 6.0).collect();
            let y: Vec<f64> = (0..n).map(|i| f64::from(i * 5 % 11)).collect();
            assert_eq!(sum(&x), x.iter().sum::<f64>());
            assert_eq!(dot(&x, &y), x.iter().zip(&y).map(|(x, y)| x * y).sum::<f64>());
            assert_eq!(max(&x, -1e30), x.iter().copied().fold(-1e30, f64::max));
        }
    }

    #[test]
    fn every_instruction_set_adds_in_the_same_order() {
        #[inline(always)]
        fn body(x: &[f32]) -> [f32; 2] {
            [sum(x), dot(x, x)]
        }
        let x: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
        assert_eq!(
            vectorize(
                #[inline(always)]
                || body(&x)
            ),
            body(&x)
        );
    }
}
