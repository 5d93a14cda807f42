//! Matrix products of whole tensors, and column sums, on all threads.
//!
//! The bits of both are the same for any number of threads.

use rayon::prelude::*;

use super::gemm::{self, Lanes};
use super::real::Real;
use super::vector::{self, vectorize};

/// Smallest number of elements that is worth a task.
const WORTH_A_TASK: usize = 1 << 18;

/// Sizes and flags of one product.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matmul {
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// `a` is stored `[k,m]` instead of `[m,k]`.
    pub trans_a: bool,
    /// `b` is stored `[n,k]` instead of `[k,n]`.
    pub trans_b: bool,
    /// Add to `out` instead of setting it.
    pub accumulate: bool,
}

impl Matmul {
    fn mkn(&self) -> [usize; 3] {
        [self.m, self.k, self.n]
    }
}

/// Elements of workspace with which [`matmul`] uses `threads` threads.
pub fn workspace_len<R: Real>(sizes: &Matmul, threads: usize) -> usize {
    gemm::workspace_len::<R>(sizes.mkn(), threads)
}

/// `out [m,n] = a [m,k] b [k,n] (+ out) (+ bias [n])`, all contiguous and stored by rows.
///
/// Uses as many threads as `workspace` (see [`workspace_len`]) has room for. Panics when a slice has not the length that
/// `sizes` gives it.
pub fn matmul<R: Real>(out: &mut [R], a: &[R], b: &[R], bias: Option<&[R]>, sizes: &Matmul, workspace: &mut [R]) {
    let &Matmul { m, n, k, trans_a, trans_b, accumulate } = sizes;
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "matmul {sizes:?}");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias of matmul {sizes:?}");
    assert!(workspace.len() >= workspace_len::<R>(sizes, 1), "workspace of matmul {sizes:?}");
    if m * n == 0 {
        return;
    }
    if k == 0 {
        if !accumulate {
            out.fill(R::ZERO);
        }
        if let Some(bias) = bias {
            out.chunks_exact_mut(n).for_each(|row| vector::add(row, bias));
        }
        return;
    }
    let lanes = |data, contiguous, lanes| {
        if contiguous { Lanes { data, across: k, along: 1 } } else { Lanes { data, across: 1, along: lanes } }
    };
    gemm::multiply(out, lanes(a, !trans_a, m), lanes(b, trans_b, n), sizes.mkn(), accumulate, bias, workspace);
}

/// Columns that a task of [`column_sum`] adds up: their sums stay in the first-level cache.
const SUM_COLUMNS: usize = 256;

/// `out [cols] = sum over rows of x [rows,cols] (+ out)`; rows are added in ascending order, whatever the threads.
///
/// Panics when a slice has not the length that `rows` and `cols` give it.
pub fn column_sum<R: Real>(out: &mut [R], x: &[R], rows: usize, cols: usize, accumulate: bool) {
    assert_eq!((out.len(), x.len()), (cols, rows * cols), "column_sum of {rows} rows and {cols} columns");
    let sum = |(part, out): (usize, &mut [R])| {
        if !accumulate {
            out.fill(R::ZERO);
        }
        let first = part * SUM_COLUMNS;
        vectorize(
            #[inline(always)]
            || {
                for row in x.chunks_exact(cols) {
                    vector::add(out, &row[first..first + out.len()]);
                }
            },
        );
    };
    if x.len() < WORTH_A_TASK {
        out.chunks_mut(SUM_COLUMNS).enumerate().for_each(sum);
    } else {
        out.par_chunks_mut(SUM_COLUMNS).enumerate().for_each(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<R: Real>(n: usize, salt: usize) -> Vec<R> {
        (0..n).map(|i| R::from_f64(((i * 7919 + salt * 104_729) % 1009) as f64 / 504.5 - 1.0)).collect()
    }

    fn check<R: Real>(tolerance: f64) {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 7),
            (64, 64, 64),
            (50, 300, 70),
            (301, 49, 130),
            (2, 2000, 600),
            (7, 4200, 260),
            (4, 3, 0),
        ] {
            for flags in 0..16 {
                let sizes =
                    Matmul { m, n, k, trans_a: flags & 1 == 1, trans_b: flags & 2 == 2, accumulate: flags & 4 == 4 };
                let (a, b, bias, old) =
                    (values::<R>(m * k, 1), values::<R>(k * n, 2), values::<R>(n, 3), values::<R>(m * n, 4));
                let bias = (flags & 8 == 8).then_some(&bias[..]);
                let mut out = old.clone();
                let mut space = vec![R::from_f64(f64::NAN); workspace_len::<R>(&sizes, 2)];
                matmul(&mut out, &a, &b, bias, &sizes, &mut space);
                for (at, &got) in out.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let mut want = if sizes.accumulate { old[at].to_f64() } else { 0.0 };
                    want += bias.map_or(0.0, |bias| bias[j].to_f64());
                    for p in 0..k {
                        let a = a[if sizes.trans_a { p * m + i } else { i * k + p }];
                        let b = b[if sizes.trans_b { j * k + p } else { p * n + j }];
                        want += a.to_f64() * b.to_f64();
                    }
                    assert!((got.to_f64() - want).abs() <= tolerance, "{sizes:?} ({i},{j}): {got:?} {want}");
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        check::<f64>(1e-12);
        check::<f32>(2e-4);
    }

    #[test]
    fn same_bits_for_any_number_of_threads() {
        let sizes = Matmul { m: 200, n: 333, k: 700, trans_b: true, ..Default::default() };
        let (a, b) = (values::<f32>(sizes.m * sizes.k, 1), values::<f32>(sizes.k * sizes.n, 2));
        let with = |threads: usize| {
            let mut out = vec![0.0; sizes.m * sizes.n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut space = vec![f32::NAN; workspace_len::<f32>(&sizes, threads)];
            pool.install(|| matmul(&mut out, &a, &b, None, &sizes, &mut space));
            out
        };
        let one = with(1);
        assert!([2, 3, 7].into_iter().all(|threads| with(threads) == one));
    }

    #[test]
    fn column_sums() {
        for (rows, cols) in [(0, 3), (1, 1), (5, 300), (1200, 257)] {
            let x = values::<f64>(rows * cols, 1);
            for accumulate in [false, true] {
                let mut out = vec![0.5; cols];
                column_sum(&mut out, &x, rows, cols, accumulate);
                for (j, &got) in out.iter().enumerate() {
                    let want: f64 = x.chunks_exact(cols).map(|row| row[j]).sum();
                    assert!((got - want - if accumulate { 0.5 } else { 0.0 }).abs() < 1e-12);
                }
            }
        }
    }
}
