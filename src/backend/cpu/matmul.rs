//! Matrix products of whole tensors, and column sums, on all threads.
//!
//! Blocks of the output go to `matrixmultiply`, one thread each. Every element is summed over `k` in an order that does
//! not depend on the blocks, so the bits are the same for any number of threads.

use rayon::prelude::*;

use super::real::Real;
use super::vector::{self, Shared, vectorize};

/// Smallest number of multiplications that is worth a task.
const WORTH_A_TASK: usize = 1 << 18;
/// Blocks are multiples of this many rows and columns, so that only the last has incomplete register blocks.
const GRAIN: usize = 48;

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

/// `out [m,n] = a [m,k] b [k,n] (+ out) (+ bias [n])`, all contiguous and stored by rows.
///
/// Panics when a slice has not the length that `sizes` gives it.
pub fn matmul<R: Real>(out: &mut [R], a: &[R], b: &[R], bias: Option<&[R]>, sizes: &Matmul) {
    let &Matmul { m, n, k, trans_a, trans_b, accumulate } = sizes;
    assert_eq!((out.len(), a.len(), b.len()), (m * n, m * k, k * n), "matmul {sizes:?}");
    assert!(bias.is_none_or(|bias| bias.len() == n), "bias of matmul {sizes:?}");
    if m * n == 0 {
        return;
    }
    let (a_strides, b_strides) = (if trans_a { [1, m] } else { [k, 1] }, if trans_b { [1, k] } else { [n, 1] });
    let [rows, columns] = blocks(sizes, rayon::current_num_threads());
    let across = n.div_ceil(columns);
    let shared = Shared::new(out);
    let block = |task: usize| {
        let (i, j) = (task / across * rows, task % across * columns);
        let (rows, columns) = (rows.min(m - i), columns.min(n - j));
        let beta = if accumulate { R::ONE } else { R::ZERO };
        // SAFETY: the block [rows, columns] at (i, j) lies inside the three matrices, whose lengths are checked above;
        // the blocks of different tasks are disjoint.
        unsafe {
            let (a, b) = (a.as_ptr().add(i * a_strides[0]), b.as_ptr().add(j * b_strides[1]));
            let c = shared.as_ptr().add(i * n + j);
            R::gemm([rows, k, columns], a, a_strides, b, b_strides, beta, c, [n, 1]);
        }
        if let Some(bias) = bias {
            for i in i..i + rows {
                // SAFETY: a row of this task's block, and gemm is done with it.
                vector::add(unsafe { shared.slice(i * n + j, columns) }, &bias[j..]);
            }
        }
    };
    match m.div_ceil(rows) * across {
        1 => block(0),
        tasks => (0..tasks).into_par_iter().with_max_len(1).for_each(block),
    }
}

/// Rows and columns of a block: about two blocks per thread, and of these grids the one that packs least.
fn blocks(sizes: &Matmul, threads: usize) -> [usize; 2] {
    let &Matmul { m, n, k, .. } = sizes;
    let wanted = if threads == 1 { 1 } else { 2 * threads }.min((m * n * k / WORTH_A_TASK).max(1));
    let side = |len: usize, parts: usize| len.div_ceil(parts).next_multiple_of(GRAIN).min(len);
    let grid = (1..=wanted.min(m.div_ceil(GRAIN)))
        .map(|down| (down, (wanted / down).clamp(1, n.div_ceil(GRAIN))))
        // Fewer tasks than wanted leave threads idle; beyond that, a is packed once per block column, b per block row.
        .min_by_key(|&(down, across)| (wanted.div_ceil(down * across), m * across + n * down));
    grid.map_or([m, n], |(down, across)| [side(m, down), side(n, across)])
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
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (64, 64, 64), (50, 300, 70), (301, 49, 130), (2, 2000, 600), (4, 3, 0)]
        {
            for flags in 0..16 {
                let sizes =
                    Matmul { m, n, k, trans_a: flags & 1 == 1, trans_b: flags & 2 == 2, accumulate: flags & 4 == 4 };
                let (a, b, bias, old) =
                    (values::<R>(m * k, 1), values::<R>(k * n, 2), values::<R>(n, 3), values::<R>(m * n, 4));
                let bias = (flags & 8 == 8).then_some(&bias[..]);
                let mut out = old.clone();
                matmul(&mut out, &a, &b, bias, &sizes);
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
            pool.install(|| matmul(&mut out, &a, &b, None, &sizes));
            out
        };
        let one = with(1);
        assert!([2, 3, 7].into_iter().all(|threads| with(threads) == one));
    }

    #[test]
    fn blocks_cover_the_output_once() {
        for threads in [1, 2, 3, 16, 64] {
            for (m, n, k) in [(1, 1, 1), (1024, 3072, 768), (64, 32000, 768), (768, 3072, 1024), (5, 100_000, 64)] {
                let [rows, columns] = blocks(&Matmul { m, n, k, ..Default::default() }, threads);
                assert!((1..=m).contains(&rows) && (1..=n).contains(&columns));
                let tasks = m.div_ceil(rows) * n.div_ceil(columns);
                assert!(m * n * k < 1 << 28 || tasks >= threads, "{threads} threads, {m} {n}: {tasks} tasks");
            }
        }
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
