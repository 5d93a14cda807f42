//! Matrix products of any size: packed operands, a block for each level of cache, one register block inside.
//!
//! `k` is cut into equal parts, and for each part
//!
//! 1. all threads pack the right operand into panels as wide as a register block, which stay in the third-level cache;
//! 2. each thread takes blocks of rows: it packs the left operand's rows into panels as high as a register block, which
//!    stay in its second-level cache, and multiplies all of them with one right panel after another, which stays in its
//!    first-level cache meanwhile.
//!
//! A register block is summed over its part of `k` in ascending order and then added to the output. Parts depend on `k`
//! alone, so the bits are the same for any number of threads.

use std::marker::PhantomData;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::blocks::parallel;
use super::real::Real;
use super::vector::{Shared, dispatch, vectorize};

/// Most products in a part of `k`: a right panel is 64 bytes a product with AVX2, so it takes three quarters of a
/// first-level cache of 32 KiB (and 128 bytes with AVX-512, all of one of 48 KiB).
const DEPTH: usize = 384;
/// Bytes of a left block: a fifth of a second-level cache of 512 KiB, which others may share.
const LEFT_BYTES: usize = 96 << 10;
/// Bytes of the right operand that are packed at a time.
const RIGHT_BYTES: usize = 4 << 20;
/// Right panels that a task packs, so that it reads whole cache lines of each row.
const PANELS: usize = 16;
/// Elements from one prefetch to the next: a cache line of f32.
const LINE: usize = 16;
/// Products of a register block between two tests of the loop. A processor core that two threads share issues half as many
/// instructions for each of them, so that every one beside the multiplications costs time.
const UNROLLED: usize = 4;
/// Smallest number of multiplications that is worth a task.
const WORTH_A_TASK: usize = 1 << 18;
/// The widest register block: two vectors of AVX-512.
const WIDEST: usize = 32;

/// An operand seen as lanes (rows of the left one, columns of the right one) of `k` elements: element `p` of lane `l` is
/// at `l * across + p * along`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub struct Lanes<'a, R> {
    /// The elements.
    pub data: &'a [R],
    /// From one lane to the next.
    pub across: usize,
    /// From one element of a lane to the next.
    pub along: usize,
}

/// How a product is cut.
struct Cut {
    /// Rows and columns of a register block.
    height: usize,
    width: usize,
    /// Products in a part of `k`, the last part apart.
    depth: usize,
    /// Columns that are packed at a time.
    columns: usize,
    /// Blocks of rows, and register blocks in the height of the highest of them.
    blocks: usize,
    block: usize,
    /// Shares of the packed columns: more than 1 where there are too few blocks for all threads.
    shares: usize,
    /// Threads that are worth while.
    threads: usize,
}

impl Cut {
    fn new<R: Real>([m, k, n]: [usize; 3], threads: usize) -> Self {
        let [height, width] = dispatch(RegisterBlock::<R>(PhantomData));
        let threads = threads.min(m * k * n / WORTH_A_TASK).max(1);
        let depth = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
        let columns = RIGHT_BYTES / DEPTH / size_of::<R>();
        let columns = n.div_ceil(n.div_ceil(columns).max(1)).next_multiple_of(WIDEST);
        let (rows, most) = (m.div_ceil(height), LEFT_BYTES / DEPTH / size_of::<R>() / height);
        let blocks = rows.div_ceil(most);
        // As many blocks for each thread, where there are enough rows.
        let blocks = if rows >= 8 * threads { blocks.next_multiple_of(threads) } else { blocks };
        Cut {
            height,
            width,
            depth,
            columns,
            blocks,
            block: rows.div_ceil(blocks.max(1)),
            shares: if blocks < threads { (2 * threads).div_ceil(blocks.max(1)) } else { 1 },
            threads,
        }
    }
    fn left_len(&self) -> usize {
        self.block * self.height * self.depth
    }
}

/// Elements of workspace with which [`multiply`] uses `threads` threads.
pub fn workspace_len<R: Real>(sizes: [usize; 3], threads: usize) -> usize {
    let cut = Cut::new::<R>(sizes, threads);
    cut.columns * cut.depth + cut.threads * cut.left_len()
}

/// `out [m,n] = a [m,k] b [k,n] (+ out) (+ bias [n])`, with `out` stored by rows; nothing where a size is 0.
///
/// Uses as many threads as `workspace` (see [`workspace_len`]) has room for.
pub fn multiply<R: Real>(
    out: &mut [R],
    a: Lanes<'_, R>,
    b: Lanes<'_, R>,
    [m, k, n]: [usize; 3],
    accumulate: bool,
    bias: Option<&[R]>,
    workspace: &mut [R],
) {
    let cut = Cut::new::<R>([m, k, n], rayon::current_num_threads());
    let &Cut { height, width, .. } = &cut;
    let (packed, workspace) = workspace.split_at_mut(cut.columns * cut.depth);
    let out = Shared::new(out);
    for j0 in (0..n).step_by(cut.columns) {
        let columns = cut.columns.min(n - j0);
        let panels = columns.div_ceil(width);
        for k0 in (0..k).step_by(cut.depth) {
            let depth = cut.depth.min(k - k0);
            let packed = &mut packed[..panels * width * depth];
            let task = PANELS * width * depth;
            let fill = |(task, packed): (usize, &mut [R])| {
                pack(packed, width, b, j0 + task * PANELS * width, n, [k0, depth]);
            };
            if cut.threads > 1 {
                packed.par_chunks_mut(task).enumerate().for_each(fill);
            } else {
                packed.chunks_mut(task).enumerate().for_each(fill);
            }
            let packed = &*packed;
            let part = |task: usize, left: &mut [R]| {
                let (block, share) = (task / cut.shares, task % cut.shares);
                // Shares of what there is, to the nearest register block.
                let rows = [block, block + 1].map(|b| (m.div_ceil(height) * b / cut.blocks * height).min(m));
                let [first, end] = [share, share + 1].map(|s| panels * s / cut.shares);
                let left = &mut left[..(rows[1] - rows[0]).next_multiple_of(height) * depth];
                pack(left, height, a, rows[0], rows[1], [k0, depth]);
                dispatch(Multiply {
                    out: &out,
                    stride: n,
                    rows,
                    columns: [j0 + first * width, (j0 + end * width).min(n)],
                    left,
                    right: &packed[first * width * depth..end * width * depth],
                    depth,
                    accumulate: accumulate || k0 > 0,
                    bias: bias.filter(|_| k0 + depth == k),
                });
            };
            let tasks = cut.blocks * cut.shares;
            if cut.threads > 1 {
                parallel(tasks, workspace, cut.left_len(), part);
            } else {
                (0..tasks).for_each(|task| part(task, workspace));
            }
        }
    }
}

/// Packs lanes from `first` on, `depth` elements of each from `k0` on: panels `[depth][width]`, lanes from `end` on zero.
fn pack<R: Real>(
    packed: &mut [R],
    width: usize,
    from: Lanes<'_, R>,
    first: usize,
    end: usize,
    [k0, depth]: [usize; 2],
) {
    match width {
        32 => pack_panels::<R, 32, 8>(packed, from, first, end, k0, depth),
        16 => pack_panels::<R, 16, 8>(packed, from, first, end, k0, depth),
        12 => pack_panels::<R, 12, 6>(packed, from, first, end, k0, depth),
        8 => pack_panels::<R, 8, 8>(packed, from, first, end, k0, depth),
        6 => pack_panels::<R, 6, 6>(packed, from, first, end, k0, depth),
        4 => pack_panels::<R, 4, 4>(packed, from, first, end, k0, depth),
        _ => pack_panels::<R, 2, 2>(packed, from, first, end, k0, depth),
    }
}

/// [`pack`] for panels of `W` lanes, of which `G` are read together.
fn pack_panels<R: Real, const W: usize, const G: usize>(
    packed: &mut [R],
    from: Lanes<'_, R>,
    first: usize,
    end: usize,
    k0: usize,
    depth: usize,
) {
    vectorize(
        #[inline(always)]
        || {
            if from.across == 1 {
                for p in 0..depth {
                    let row = &from.data[(k0 + p) * from.along..];
                    for (panel, packed) in packed.chunks_exact_mut(W * depth).enumerate() {
                        let (lane, target) = (first + panel * W, &mut packed[p * W..][..W]);
                        if lane + W <= end {
                            target.copy_from_slice(&row[lane..][..W]);
                        } else {
                            let present = end - lane;
                            target[..present].copy_from_slice(&row[lane..end]);
                            target[present..].fill(R::ZERO);
                        }
                    }
                }
                return;
            }
            for (panel, packed) in packed.chunks_exact_mut(W * depth).enumerate() {
                for group in (0..W).step_by(G) {
                    let lane = first + panel * W + group;
                    let present = end.saturating_sub(lane).min(G);
                    let lanes: [&[R]; G] = std::array::from_fn(|l| {
                        // Lanes beyond the end read the last again, and become zero.
                        let lane = (lane + l).min(end - 1);
                        &from.data[lane * from.across + k0..][..depth]
                    });
                    for (p, target) in packed.as_chunks_mut::<W>().0.iter_mut().enumerate() {
                        if p % LINE == 0 {
                            // Lanes are short and far apart: the processor does not guess where the next begin.
                            let next = |l: usize| (lane + G + l).min(end - 1) * from.across + k0 + p;
                            (0..G).for_each(|l| prefetch(&from.data[next(l)..][..1]));
                        }
                        for (target, lane) in target[group..group + G].iter_mut().zip(&lanes) {
                            *target = lane[p];
                        }
                    }
                    if present < G {
                        for target in packed.as_chunks_mut::<W>().0 {
                            target[group + present..group + G].fill(R::ZERO);
                        }
                    }
                }
            }
        },
    );
}

/// Asks for the size of a register block, `[rows, columns]`.
struct RegisterBlock<R>(PhantomData<R>);

/// Rows and vectors of a register block. Its sums, the vectors of the right panel and one element of the left panel in
/// every lane take 27 of 32 registers or 15 of 16.
const fn register_block<S: Simd>() -> [usize; 2] {
    if S::REGISTER_COUNT >= 32 { [12, 2] } else { [6, 2] }
}

impl<R: Real> WithSimd for RegisterBlock<R> {
    type Output = [usize; 2];
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> [usize; 2] {
        let [rows, vectors] = register_block::<S>();
        [rows, vectors * (size_of::<R::Vector<S>>() / size_of::<R>())]
    }
}

/// Packed rows by packed columns, for one part of `k`.
struct Multiply<'a, R> {
    out: &'a Shared<'a, R>,
    stride: usize,
    rows: [usize; 2],
    columns: [usize; 2],
    left: &'a [R],
    right: &'a [R],
    depth: usize,
    accumulate: bool,
    bias: Option<&'a [R]>,
}

impl<R: Real> WithSimd for Multiply<'_, R> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match register_block::<S>() {
            [12, _] => self.blocks::<S, 12, 2>(simd),
            _ => self.blocks::<S, 6, 2>(simd),
        }
    }
}

impl<R: Real> Multiply<'_, R> {
    #[inline(always)]
    fn blocks<S: Simd, const M: usize, const N: usize>(&self, simd: S) {
        let width = N * (size_of::<R::Vector<S>>() / size_of::<R>());
        for (j, right) in (self.columns[0]..).step_by(width).zip(self.right.chunks_exact(width * self.depth)) {
            for (i, left) in (self.rows[0]..).step_by(M).zip(self.left.chunks_exact(M * self.depth)) {
                self.block::<S, M, N>(simd, i, j, left, right);
            }
        }
    }

    /// The register block at `(i, j)`.
    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(&self, simd: S, i: usize, j: usize, left: &[R], right: &[R]) {
        let width = N * (size_of::<R::Vector<S>>() / size_of::<R>());
        let (rows, columns) = (M.min(self.rows[1] - i), width.min(self.columns[1] - j));
        // SAFETY: rows and columns of the output are shared out among the tasks.
        let row = |r: usize| unsafe { self.out.slice((i + r) * self.stride + j, columns) };
        for r in 0..rows {
            prefetch(row(r));
        }
        let mut acc = [[R::splat(simd, R::ZERO); N]; M];
        let (left, left_rest) = left.as_chunks::<M>().0.as_chunks::<UNROLLED>();
        let (right, right_rest) = R::vectors::<S>(right).as_chunks::<N>().0.as_chunks::<UNROLLED>();
        for (a, b) in left.iter().zip(right) {
            for p in 0..UNROLLED {
                multiply_add(simd, &mut acc, &a[p], &b[p]);
            }
        }
        for (a, b) in left_rest.iter().zip(right_rest) {
            multiply_add(simd, &mut acc, a, b);
        }
        let one = R::splat(simd, R::ONE);
        for (r, acc) in acc.iter().enumerate().take(rows) {
            let out = row(r);
            if columns == width {
                let target = R::vectors_mut::<S>(out);
                for v in 0..N {
                    let mut x = acc[v];
                    if self.accumulate {
                        x = R::vector_mul_add(simd, x, one, target[v]);
                    }
                    if let Some(bias) = self.bias {
                        x = R::vector_mul_add(simd, x, one, R::vectors::<S>(&bias[j..j + width])[v]);
                    }
                    target[v] = x;
                }
            } else {
                let mut whole = [R::ZERO; WIDEST];
                R::vectors_mut::<S>(&mut whole[..width]).copy_from_slice(acc);
                for (c, out) in out.iter_mut().enumerate() {
                    let mut x = whole[c];
                    if self.accumulate {
                        x += *out;
                    }
                    if let Some(bias) = self.bias {
                        x += bias[j + c];
                    }
                    *out = x;
                }
            }
        }
    }
}

/// `acc += a b`, one product for each element of a register block.
#[inline(always)]
fn multiply_add<S: Simd, R: Real, const M: usize, const N: usize>(
    simd: S,
    acc: &mut [[R::Vector<S>; N]; M],
    a: &[R; M],
    b: &[R::Vector<S>; N],
) {
    for r in 0..M {
        let x = R::splat(simd, a[r]);
        for v in 0..N {
            acc[r][v] = R::vector_mul_add(simd, x, b[v], acc[r][v]);
        }
    }
}

/// Asks for the first cache line of `row` while a register block is summed; only a hint.
#[inline(always)]
fn prefetch<R>(row: &[R]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches no memory.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().cast());
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr_range().end.sub(1).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}
