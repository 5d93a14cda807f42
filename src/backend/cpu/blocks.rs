//! Fixed blocks of rows, shared out among the threads.
//!
//! Blocks depend on sizes alone and partial results are combined along a fixed tree, so that every result has the same
//! bits for any number of threads. One block runs where it is called: small tensors never wait for a thread.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::real::Real;

/// Elements of a block: some microseconds of work, and inside the second-level cache for a handful of tensors.
pub const BLOCK: usize = 1 << 14;

/// Rows of `width` elements that make a block; a multiple of 8, so that no block of dropout decisions is cut.
pub fn rows_per_block(width: usize) -> usize {
    (BLOCK / width.max(1)).next_multiple_of(8).max(8)
}

/// Data that can be cut where a block begins.
pub trait Split: Send + Sized {
    /// The first `blocks` blocks and the rest.
    fn split(self, blocks: usize) -> (Self, Self);
}

/// What is read: `per_block` elements belong to each block, fewer to the last.
#[derive(Clone, Copy)]
pub struct Part<'a, T> {
    data: &'a [T],
    per_block: usize,
}
/// What is written, likewise.
pub struct PartMut<'a, T> {
    data: &'a mut [T],
    per_block: usize,
}
/// `data` in blocks of `per_block` elements, to read.
pub fn part<T>(data: &[T], per_block: usize) -> Part<'_, T> {
    Part { data, per_block }
}
/// `data` in blocks of `per_block` elements, to write.
pub fn part_mut<T>(data: &mut [T], per_block: usize) -> PartMut<'_, T> {
    PartMut { data, per_block }
}

impl<T> Deref for Part<'_, T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        self.data
    }
}
impl<T> Deref for PartMut<'_, T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        self.data
    }
}
impl<T> DerefMut for PartMut<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        self.data
    }
}

impl<T: Sync> Split for Part<'_, T> {
    fn split(self, blocks: usize) -> (Self, Self) {
        let (a, b) = self.data.split_at((blocks * self.per_block).min(self.data.len()));
        (part(a, self.per_block), part(b, self.per_block))
    }
}
impl<T: Send> Split for PartMut<'_, T> {
    fn split(self, blocks: usize) -> (Self, Self) {
        let at = (blocks * self.per_block).min(self.data.len());
        let (a, b) = self.data.split_at_mut(at);
        (part_mut(a, self.per_block), part_mut(b, self.per_block))
    }
}
impl<S: Split> Split for Option<S> {
    fn split(self, blocks: usize) -> (Self, Self) {
        self.map(|s| s.split(blocks)).map_or((None, None), |(a, b)| (Some(a), Some(b)))
    }
}
macro_rules! split_tuple {
    ($($S:ident $s:ident),*) => {
        impl<$($S: Split),*> Split for ($($S,)*) {
            fn split(self, blocks: usize) -> (Self, Self) {
                let ($($s,)*) = self;
                $(let $s = $s.split(blocks);)*
                (($($s.0,)*), ($($s.1,)*))
            }
        }
    };
}
split_tuple!(A a, B b);
split_tuple!(A a, B b, C c);
split_tuple!(A a, B b, C c, D d);
split_tuple!(A a, B b, C c, D d, E e);
split_tuple!(A a, B b, C c, D d, E e, F f);

/// Runs `run(block, its data)` for every block.
pub fn for_each<S: Split>(blocks: usize, set: S, run: impl Fn(usize, S) + Sync) {
    walk(0, blocks, set, &run, &|(), ()| ());
}

/// The sum of `run(block, its data)` over all blocks, in a fixed order.
pub fn sum<S: Split>(blocks: usize, set: S, run: impl Fn(usize, S) -> f64 + Sync) -> f64 {
    walk(0, blocks, set, &run, &|a, b| a + b)
}

fn walk<S: Split, T: Send>(
    first: usize,
    blocks: usize,
    set: S,
    run: &(impl Fn(usize, S) -> T + Sync),
    join: &(impl Fn(T, T) -> T + Sync),
) -> T {
    if blocks <= 1 {
        return run(first, set);
    }
    let half = blocks.div_ceil(2);
    let (left, right) = set.split(half);
    let (left, right) =
        rayon::join(|| walk(first, half, left, run, join), || walk(first + half, blocks - half, right, run, join));
    join(left, right)
}

/// Sum of `term(x[i], y[i])` over 16 interleaved accumulators: vectorises, and adds in the same order everywhere.
#[inline(always)]
pub fn sum_of<R: Real>(x: &[R], y: &[R], term: impl Fn(R, R) -> R) -> R {
    let (xs, x_rest) = x.as_chunks::<16>();
    let (ys, y_rest) = y.as_chunks::<16>();
    let mut acc = [R::ZERO; 16];
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..16 {
            acc[lane] += term(x[lane], y[lane]);
        }
    }
    for (acc, (&x, &y)) in acc.iter_mut().zip(x_rest.iter().zip(y_rest)) {
        *acc += term(x, y);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            let other = acc[lane + width];
            acc[lane] += other;
        }
    }
    acc[0]
}

/// Runs `run(task, part of the workspace)` for every task, on as many threads as the workspace has parts for.
pub fn parallel<R: Real>(tasks: usize, workspace: &mut [R], per_thread: usize, run: impl Fn(usize, &mut [R]) + Sync) {
    let next = AtomicUsize::new(0);
    let work = |workspace: &mut [R]| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            run(task, workspace);
        }
    };
    rayon::scope(|scope| {
        let work = &work;
        for part in workspace.chunks_exact_mut(per_thread).take(tasks.min(rayon::current_num_threads())) {
            scope.spawn(move |_| work(part));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_runs_once_with_its_data() {
        for n in [0, 1, 3, 8, 17, 33] {
            let x: Vec<usize> = (0..n).collect();
            let mut y = vec![usize::MAX; n];
            let set = (part(&x, 4), part_mut(&mut y, 4), None::<Part<u8>>);
            for_each(n.div_ceil(4), set, |block, (x, mut y, none)| {
                assert!(none.is_none());
                assert_eq!(x.first().copied().unwrap_or(0), block * 4);
                y.copy_from_slice(&x);
            });
            assert_eq!(x, y);
            assert_eq!(
                sum(n.div_ceil(4), part(&x, 4), |_, x| x.iter().sum::<usize>() as f64),
                (n * n.saturating_sub(1) / 2) as f64
            );
        }
    }

    #[test]
    fn sums_of_every_length() {
        for n in [0, 1, 15, 16, 17, 33] {
            let x: Vec<f64> = (0..n).map(f64::from).collect();
            assert_eq!(sum_of(&x, &x, |a, b| a + 2.0 * b), 3.0 * x.iter().sum::<f64>());
        }
    }
}
