//! Matrix products of attention tiles on one thread.
//!
//! Attention multiplies tiles of some dozen rows whose operands are used again and again: the keys once per query tile,
//! the probabilities only once. A general routine repacks both operands at each call, which costs a third of the time
//! here; this one packs what is used often once, and reads the other operand where it lies.

use pulp::{Simd, WithSimd};

use super::real::Real;
use super::vector::{dispatch, vectorize};

/// Columns of a panel of the right operand.
pub const PANEL: usize = 64;
/// Row lengths of everything packed are multiples of this: whole vectors of every instruction set and type.
pub const ALIGN: usize = 16;
/// Rows of the register block.
const ROWS: usize = 6;
/// Rows of the right operand that stay in the first-level cache together: 128 * 64 f32 are 32 KiB.
const DEPTH: usize = 128;

/// Left operand `a [m,k]`.
#[derive(Clone, Copy)]
pub enum Left<'a, R> {
    /// Stored by rows: element `(i, p)` at `i * stride + p`.
    Rows(&'a [R], usize),
    /// Stored transposed: element `(i, p)` at `p * stride + i`.
    Columns(&'a [R], usize),
}

/// Right operand `b [k,n]`: element `(p, j)` at `j / PANEL * panel + p * stride + j % PANEL`.
#[derive(Clone, Copy)]
pub struct Right<'a, R> {
    data: &'a [R],
    panel: usize,
    stride: usize,
    /// Column at which the operand begins, a multiple of [`ALIGN`].
    first: usize,
}

impl<'a, R> Right<'a, R> {
    /// A matrix stored by rows, `stride` elements apart (a multiple of [`ALIGN`]).
    pub fn rows(data: &'a [R], stride: usize) -> Self {
        Self { data, panel: PANEL, stride, first: 0 }
    }

    /// What [`pack_transposed`] wrote for columns of `k` elements, from column `first` (a multiple of [`ALIGN`]) on.
    pub fn packed(data: &'a [R], k: usize, first: usize) -> Self {
        Self { data, panel: PANEL * k, stride: PANEL, first }
    }
}

/// `n` rounded up to a multiple of [`ALIGN`].
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(ALIGN)
}

/// A row length of at least `n`: whole cache lines and an odd number of them, so that the elements of a column lie in
/// different cache sets.
pub fn row_stride(n: usize) -> usize {
    padded(n) + if (padded(n) / ALIGN).is_multiple_of(2) { ALIGN } else { 0 }
}

/// Elements that [`pack_transposed`] writes for `n` rows of `k`.
pub fn packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(PANEL) * k
}

/// Packs the transpose of `n` rows of `k` elements, `stride` apart: panels `[n/PANEL][k][PANEL]`, padded with zeros.
pub fn pack_transposed<R: Real>(packed: &mut [R], rows: &[R], stride: usize, n: usize, k: usize) {
    vectorize(
        #[inline(always)]
        || {
            for (panel, packed) in packed[..packed_len(n, k)].chunks_exact_mut(PANEL * k).enumerate() {
                for column in (0..PANEL).step_by(ALIGN) {
                    let row = panel * PANEL + column;
                    let present = n.saturating_sub(row).min(ALIGN);
                    let source: [&[R]; ALIGN] = std::array::from_fn(|l| {
                        let at = (row + l.min(present.saturating_sub(1))) * stride;
                        if present > 0 { &rows[at..at + k] } else { &[][..] }
                    });
                    for p in 0..k {
                        let target = &mut packed[p * PANEL + column..][..ALIGN];
                        for (l, target) in target.iter_mut().enumerate() {
                            *target = if l < present { source[l][p] } else { R::ZERO };
                        }
                    }
                }
            }
        },
    );
}

/// Copies `n` rows of `k` elements, `stride` apart, to rows of `padded(k)` elements, padded with zeros.
pub fn pack_rows<R: Real>(packed: &mut [R], rows: &[R], stride: usize, n: usize, k: usize) {
    for (i, packed) in packed.chunks_exact_mut(padded(k)).take(n).enumerate() {
        packed[..k].copy_from_slice(&rows[i * stride..][..k]);
        packed[k..].fill(R::ZERO);
    }
}

/// `c = a b`, or `c += a b` with `accumulate`.
///
/// `c [m,n]` has rows `stride` elements apart; `n` is a multiple of [`ALIGN`], the padded columns included.
/// Every element is summed over `k` in ascending order, so the bits depend on nothing but the operands.
pub fn multiply<R: Real>(
    c: &mut [R],
    stride: usize,
    a: Left<'_, R>,
    b: Right<'_, R>,
    [m, k, n]: [usize; 3],
    accumulate: bool,
) {
    dispatch(Multiply { c, stride, a, b, m, k, n, accumulate });
}

struct Multiply<'a, R> {
    c: &'a mut [R],
    stride: usize,
    a: Left<'a, R>,
    b: Right<'a, R>,
    m: usize,
    k: usize,
    n: usize,
    accumulate: bool,
}

impl<R: Real> WithSimd for Multiply<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
        // Register blocks of 6 x 4 vectors where there are 32 registers, else 6 x 2.
        let widest = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        for k0 in (0..self.k).step_by(DEPTH) {
            let depth = DEPTH.min(self.k - k0);
            let mut j = 0;
            while j < self.n {
                let column = self.b.first + j;
                let inside = column % PANEL;
                let width = (PANEL - inside).min(self.n - j).min(widest * lanes);
                let at = column / PANEL * self.b.panel + k0 * self.b.stride + inside;
                let vectors = width / lanes;
                for i in (0..self.m).step_by(ROWS) {
                    match vectors {
                        4 => self.block::<S, 4>(simd, i, j, k0, depth, at),
                        3 => self.block::<S, 3>(simd, i, j, k0, depth, at),
                        2 => self.block::<S, 2>(simd, i, j, k0, depth, at),
                        _ => self.block::<S, 1>(simd, i, j, k0, depth, at),
                    }
                }
                j += width;
            }
        }
    }
}

impl<R: Real> Multiply<'_, R> {
    /// Rows `i..` and the `N` vectors at column `j` of `c`, for the `depth` products from `k0` on; `at` is where the
    /// right operand has `(k0, j)`.
    #[inline(always)]
    fn block<S: Simd, const N: usize>(&mut self, simd: S, i: usize, j: usize, k0: usize, depth: usize, at: usize) {
        let lanes = size_of::<R::Vector<S>>() / size_of::<R>();
        let rows = ROWS.min(self.m - i);
        let load = self.accumulate || k0 > 0;
        let mut acc = [[R::splat(simd, R::ZERO); N]; ROWS];
        if load {
            for (r, acc) in acc.iter_mut().enumerate() {
                if r < rows {
                    acc.copy_from_slice(R::vectors::<S>(&self.c[(i + r) * self.stride + j..][..N * lanes]));
                }
            }
        }
        let b = &self.b.data[at..];
        let b_stride = self.b.stride;
        match self.a {
            Left::Rows(a, a_stride) => {
                // Rows beyond the last read the last again and are not stored.
                let a: [&[R]; ROWS] = std::array::from_fn(|r| &a[(i + r.min(rows - 1)) * a_stride + k0..][..depth]);
                for p in 0..depth {
                    let b = R::vectors::<S>(&b[p * b_stride..][..N * lanes]);
                    for r in 0..ROWS {
                        let x = R::splat(simd, a[r][p]);
                        for v in 0..N {
                            acc[r][v] = R::vector_mul_add(simd, x, b[v], acc[r][v]);
                        }
                    }
                }
            }
            Left::Columns(a, a_stride) if rows == ROWS => {
                let a = &a[k0 * a_stride + i..];
                for p in 0..depth {
                    let b = R::vectors::<S>(&b[p * b_stride..][..N * lanes]);
                    let a = &a[p * a_stride..][..ROWS];
                    for r in 0..ROWS {
                        let x = R::splat(simd, a[r]);
                        for v in 0..N {
                            acc[r][v] = R::vector_mul_add(simd, x, b[v], acc[r][v]);
                        }
                    }
                }
            }
            Left::Columns(a, a_stride) => {
                for p in 0..depth {
                    let b = R::vectors::<S>(&b[p * b_stride..][..N * lanes]);
                    let a = &a[(k0 + p) * a_stride + i..][..rows];
                    for r in 0..ROWS {
                        let x = R::splat(simd, a[r.min(rows - 1)]);
                        for v in 0..N {
                            acc[r][v] = R::vector_mul_add(simd, x, b[v], acc[r][v]);
                        }
                    }
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            if r < rows {
                R::vectors_mut::<S>(&mut self.c[(i + r) * self.stride + j..][..N * lanes]).copy_from_slice(acc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<R: Real>(n: usize, salt: usize) -> Vec<R> {
        (0..n).map(|i| R::from_f64(((i * 7919 + salt * 104_729) % 1009) as f64 / 504.5 - 1.0)).collect()
    }

    fn check<R: Real>(tolerance: f64) {
        for (m, k, n) in [(1, 1, 1), (3, 3, 16), (6, 64, 64), (7, 17, 33), (13, 130, 129), (48, 65, 175), (5, 300, 70)]
        {
            let b = values::<R>(n * k, 2); // [n,k]
            let mut packed = vec![R::ZERO; packed_len(n, k)];
            pack_transposed(&mut packed, &b, k, n, k);
            let by_rows: Vec<R> = (0..k * padded(n))
                .map(|at| (at / padded(n), at % padded(n)))
                .map(|(p, j)| if j < n { b[j * k + p] } else { R::ZERO })
                .collect();
            let a = values::<R>(m * k, 1); // [m,k]
            let transposed: Vec<R> = (0..m * k).map(|at| a[at % m * k + at / m]).collect(); // [k,m]
            for first in [0, 16, 48].into_iter().filter(|&first| first < n) {
                let width = padded(n - first);
                for (left, accumulate) in [Left::Rows(&a, k), Left::Columns(&transposed, m)]
                    .into_iter()
                    .flat_map(|left| [(left, false), (left, true)])
                {
                    let old = values::<R>(m * width, 3);
                    let mut c = old.clone();
                    multiply(&mut c, width, left, Right::packed(&packed, k, first), [m, k, width], accumulate);
                    for (at, &got) in c.iter().enumerate() {
                        let (i, j) = (at / width, at % width + first);
                        let product: f64 =
                            (0..if j < n { k } else { 0 }).map(|p| a[i * k + p].to_f64() * b[j * k + p].to_f64()).sum();
                        let want = product + if accumulate { old[at].to_f64() } else { 0.0 };
                        assert!((got.to_f64() - want).abs() <= tolerance, "{m} {k} {n} {first}: {got:?} {want}");
                    }
                    if first == 0 {
                        let mut same = old;
                        multiply(&mut same, width, left, Right::rows(&by_rows, padded(n)), [m, k, width], accumulate);
                        assert_eq!(same, c);
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        check::<f64>(1e-12);
        check::<f32>(1e-4);
    }
}
