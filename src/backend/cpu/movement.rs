//! Copies, gathers and weighted sums of rows.

use std::ops::Range;

use super::blocks::{BLOCK, for_each, part, part_mut, rows_per_block};
use super::layer_norm::add_partials;
use super::real::Real;
use super::vector::{add, axpy, dot, vectorize};
use crate::op::{CopyBlocks, Write};

/// Elements of a block whose work is nothing but memory traffic.
const COPY_BLOCK: usize = 4 * BLOCK;

/// `out = value`.
pub fn fill<T: Copy + Send + Sync>(out: &mut [T], value: T) {
    for_each(out.len().div_ceil(COPY_BLOCK), part_mut(out, COPY_BLOCK), |_, mut out| out.fill(value));
}

/// `out = convert(src)`, element by element.
pub fn cast<A: Copy + Send + Sync, B: Copy + Send + Sync>(out: &mut [B], src: &[A], convert: impl Fn(A) -> B + Sync) {
    let set = (part_mut(out, COPY_BLOCK), part(src, COPY_BLOCK));
    for_each(src.len().div_ceil(COPY_BLOCK), set, |_, (mut out, src)| {
        out.iter_mut().zip(&*src).for_each(|(out, &x)| *out = convert(x));
    });
}

/// Blocks of `src` to blocks of `dst`; `sum` adds two elements.
pub fn copy_blocks<T: Copy + Send + Sync>(dst: &mut [T], src: &[T], op: &CopyBlocks, sum: impl Fn(T, T) -> T + Sync) {
    let &CopyBlocks { src_offset, src_stride, dst_offset, dst_stride, blocks, length, .. } = op;
    let write = |dst: &mut [T], src: &[T]| match op.dst.write {
        Write::Set => dst.copy_from_slice(src),
        Write::Add => dst.iter_mut().zip(src).for_each(|(dst, &src)| *dst = sum(*dst, src)),
    };
    if blocks == 1 || (src_stride == length && dst_stride == length) {
        let set =
            (part_mut(&mut dst[dst_offset..][..blocks * length], COPY_BLOCK), part(&src[src_offset..], COPY_BLOCK));
        return for_each((blocks * length).div_ceil(COPY_BLOCK), set, |_, (mut dst, src)| {
            let n = dst.len();
            write(&mut dst, &src[..n]);
        });
    }
    let dst = &mut dst[dst_offset..][..(blocks - 1) * dst_stride + length];
    let per = (COPY_BLOCK / length).max(1);
    for_each(blocks.div_ceil(per), part_mut(dst, per * dst_stride), |block, mut dst| {
        for (i, dst) in dst.chunks_mut(dst_stride).enumerate() {
            let src = &src[src_offset + (block * per + i) * src_stride..][..length];
            write(&mut dst[..length], src);
        }
    });
}

/// `out[r] = table[ids[r]]`, zeros for a negative id; rows of `d` elements, ids in range.
pub fn gather_rows<R: Real>(out: &mut [R], table: &[R], ids: &[i32], d: usize) {
    if out.is_empty() {
        return;
    }
    let per = rows_per_block(d);
    for_each(ids.len().div_ceil(per), (part_mut(out, per * d), part(ids, per)), |_, (mut out, ids)| {
        for (out, &id) in out.chunks_exact_mut(d).zip(&*ids) {
            match usize::try_from(id) {
                Ok(id) => out.copy_from_slice(&table[id * d..][..d]),
                Err(_) => out.fill(R::ZERO),
            }
        }
    });
}

/// `dtable[ids[r]] (=|+=) dout[r]` in ascending order of `r`. Each task owns a range of table rows and looks for their
/// ids, so nothing races and the order never changes.
pub fn gather_rows_grad<R: Real>(dtable: &mut [R], write: Write, dout: &[R], ids: &[i32], d: usize) {
    if dtable.is_empty() {
        return;
    }
    let per = (COPY_BLOCK * 4 / d).max(1);
    for_each((dtable.len() / d).div_ceil(per), part_mut(dtable, per * d), |block, mut dtable| {
        if write == Write::Set {
            dtable.fill(R::ZERO);
        }
        let first = block * per;
        let own: Range<usize> = first..first + dtable.len() / d;
        vectorize(
            #[inline(always)]
            || {
                for (r, &id) in ids.iter().enumerate() {
                    // A negative id wraps to a number beyond every table.
                    if own.contains(&(id as usize)) {
                        add(&mut dtable[(id as usize - first) * d..][..d], &dout[r * d..][..d]);
                    }
                }
            },
        );
    });
}

/// `out[r] = weight[r] row + (1 - weight[r]) x[r]`, or `row` everywhere.
pub fn mix_rows<R: Real>(out: &mut [R], row: &[R], mixed: Option<(&[R], &[R])>) {
    let d = row.len();
    let per = rows_per_block(d);
    let mixed = mixed.map(|(x, weight)| (part(x, per * d), part(weight, per)));
    for_each((out.len() / d).div_ceil(per), (part_mut(out, per * d), mixed), |_, (mut out, mixed)| {
        vectorize(
            #[inline(always)]
            || {
                for (r, out) in out.chunks_exact_mut(d).enumerate() {
                    match &mixed {
                        None => out.copy_from_slice(row),
                        Some((x, weight)) => {
                            let (w, rest) = (weight[r], R::ONE - weight[r]);
                            for ((out, &row), &x) in out.iter_mut().zip(row).zip(&x[r * d..][..d]) {
                                *out = w * row + rest * x;
                            }
                        }
                    }
                }
            },
        );
    });
}

/// At most this many partial sums of the row's gradient.
const PARTIALS: usize = 32;

fn partial_rows(rows: usize, d: usize) -> usize {
    rows.div_ceil(PARTIALS).max(rows_per_block(d))
}

/// Elements of workspace of [`mix_rows_grad`].
pub fn mix_rows_grad_workspace_len(rows: usize, d: usize) -> usize {
    rows.div_ceil(partial_rows(rows, d)) * d
}

/// `drow (=|+=) sum of weight[r] dout[r]`, `dx (=|+=) (1 - weight[r]) dout[r]`; without weights they are 1.
pub fn mix_rows_grad<R: Real>(
    drow: Option<(&mut [R], Write)>,
    dx: Option<(&mut [R], Write)>,
    dout: &[R],
    weight: Option<&[R]>,
    d: usize,
    workspace: &mut [R],
) {
    if dout.is_empty() {
        return;
    }
    let rows = dout.len() / d;
    let per = partial_rows(rows, d);
    let (dx, dx_write) = dx.unzip();
    let mut partials = drow.as_ref().map(|_| &mut workspace[..mix_rows_grad_workspace_len(rows, d)]);
    let set = (
        dx.map(|dx| part_mut(dx, per * d)),
        partials.as_deref_mut().map(|x| part_mut(x, d)),
        part(dout, per * d),
        weight.map(|x| part(x, per)),
    );
    for_each(rows.div_ceil(per), set, |_, (mut dx, mut partial, dout, weight)| {
        vectorize(
            #[inline(always)]
            || {
                if let Some(partial) = &mut partial {
                    partial.fill(R::ZERO);
                }
                for (r, dout) in dout.chunks_exact(d).enumerate() {
                    let w = weight.as_ref().map_or(R::ONE, |weight| weight[r]);
                    if let Some(partial) = &mut partial {
                        axpy(partial, w, dout);
                    }
                    if let (Some(dx), Some(write)) = (&mut dx, dx_write) {
                        scaled(&mut dx[r * d..][..d], write, R::ONE - w, dout);
                    }
                }
            },
        );
    });
    if let (Some((drow, write)), Some(partials)) = (drow, partials) {
        add_partials(drow, write, partials.chunks_exact(d));
    }
}

/// `y (=|+=) a x`.
#[inline(always)]
fn scaled<R: Real>(y: &mut [R], write: Write, a: R, x: &[R]) {
    match write {
        Write::Set => y.iter_mut().zip(x).for_each(|(y, &x)| *y = a * x),
        Write::Add => axpy(y, a, x),
    }
}

/// `out[b] = sum over l of weight[b, l] x[b, l]`.
pub fn weighted_rows<R: Real>(out: &mut [R], x: &[R], weight: &[R], [batch, rows, d]: [usize; 3]) {
    let set = (part_mut(out, d), part(x, rows * d), part(weight, rows));
    for_each(batch, set, |_, (mut out, x, weight)| {
        vectorize(
            #[inline(always)]
            || {
                out.fill(R::ZERO);
                for (x, &w) in x.chunks_exact(d.max(1)).zip(&*weight) {
                    axpy(&mut out, w, x);
                }
            },
        );
    });
}

/// `dx[b, l] (=|+=) weight[b, l] dout[b]`, `dweight[b, l] = x[b, l] . dout[b]`.
pub fn weighted_rows_grad<R: Real>(
    dx: &mut [R],
    write: Write,
    dweight: Option<&mut [R]>,
    x: &[R],
    weight: &[R],
    dout: &[R],
    [batch, rows, d]: [usize; 3],
) {
    let inputs = (part(x, rows * d), part(weight, rows), part(dout, d));
    let set = (part_mut(dx, rows * d), dweight.map(|x| part_mut(x, rows)), inputs);
    for_each(batch, set, |_, (mut dx, mut dweight, (x, weight, dout))| {
        vectorize(
            #[inline(always)]
            || {
                for (l, &w) in weight.iter().enumerate() {
                    scaled(&mut dx[l * d..][..d], write, w, &dout);
                    if let Some(dweight) = &mut dweight {
                        dweight[l] = dot(&x[l * d..][..d], &dout);
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Target;
    use crate::tensor::TensorId;

    fn numbers(n: usize, salt: usize) -> Vec<f64> {
        (0..n).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f64).collect() // whole numbers: sums are exact
    }
    const SIZES: [(usize, usize); 7] = [(1, 1), (3, 1), (1, 17), (17, 3), (3, 33), (33, 17), (700, 130)];

    #[test]
    fn fills() {
        for n in [0, 1, 3, 17, 33, COPY_BLOCK + 1] {
            let mut x = vec![0.0; n];
            fill(&mut x, 2.5);
            assert!(x.iter().all(|&x| x == 2.5));
        }
    }

    #[test]
    fn copies_blocks_and_nothing_else() {
        // src offset and stride, dst offset and stride, blocks, length
        for (so, ss, to, ts, blocks, length) in [
            (0, 0, 0, 0, 1, 1),
            (3, 0, 2, 0, 1, 17),
            (0, 3, 0, 3, 17, 3),
            (1, 5, 2, 7, 33, 3),
            (4, 0, 1, 4, 3, 3),
            (0, 33, 5, 40, 5000, 33),
            (0, 0, 0, 0, 1, 2 * COPY_BLOCK + 3),
        ] {
            let id = TensorId(0);
            let src = numbers(so + (blocks - 1) * ss + length + 2, 1);
            let old = numbers(to + (blocks - 1) * ts + length + 3, 2);
            for dst in [Target::set(id), Target::add(id)] {
                let op = CopyBlocks {
                    src: id,
                    src_offset: so,
                    src_stride: ss,
                    dst,
                    dst_offset: to,
                    dst_stride: ts,
                    blocks,
                    length,
                };
                let mut want = old.clone();
                for i in 0..blocks {
                    for e in 0..length {
                        let target = &mut want[to + i * ts + e];
                        *target = src[so + i * ss + e] + if dst.write == Write::Add { *target } else { 0.0 };
                    }
                }
                let mut got = old.clone();
                copy_blocks(&mut got, &src, &op, |a, b| a + b);
                assert_eq!(got, want);
            }
        }
    }

    #[test]
    fn gathers_rows_and_gives_their_gradient_back() {
        for (rows, d) in SIZES {
            let height = rows / 2 + 1;
            let table = numbers(height * d, 1);
            let ids: Vec<i32> = (0..rows).map(|r| (r * 5 % (height + 1)) as i32 - 1).collect();
            let mut out = vec![f64::NAN; rows * d];
            gather_rows(&mut out, &table, &ids, d);
            let mut want = table.iter().map(|_| 0.0).collect::<Vec<_>>();
            for (r, &id) in ids.iter().enumerate() {
                for e in 0..d {
                    assert_eq!(out[r * d + e], if id < 0 { 0.0 } else { table[id as usize * d + e] });
                    if id >= 0 {
                        want[id as usize * d + e] += out[r * d + e];
                    }
                }
            }
            let mut dtable = vec![f64::NAN; table.len()];
            gather_rows_grad(&mut dtable, Write::Set, &out, &ids, d);
            assert_eq!(dtable, want);
            gather_rows_grad(&mut dtable, Write::Add, &out, &ids, d);
            assert_eq!(dtable, want.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
        }
    }

    #[test]
    fn mixes_rows() {
        for (rows, d) in SIZES {
            let (row, x, weight) = (numbers(d, 1), numbers(rows * d, 2), numbers(rows, 3));
            let mut out = vec![f64::NAN; rows * d];
            mix_rows(&mut out, &row, None);
            assert!(out.chunks(d).all(|out| out == row));
            mix_rows(&mut out, &row, Some((&x, &weight)));
            for (i, &got) in out.iter().enumerate() {
                assert_eq!(got, weight[i / d] * row[i % d] + (1.0 - weight[i / d]) * x[i]);
            }
            let mut workspace = vec![f64::NAN; mix_rows_grad_workspace_len(rows, d)];
            let (mut drow, mut dx) = (vec![f64::NAN; d], vec![f64::NAN; rows * d]);
            for (pass, write) in [(1.0, Write::Set), (2.0, Write::Add)] {
                let targets = (Some((&mut drow[..], write)), Some((&mut dx[..], write)));
                mix_rows_grad(targets.0, targets.1, &x, Some(&weight), d, &mut workspace);
                for (c, &got) in drow.iter().enumerate() {
                    assert_eq!(got, pass * (0..rows).map(|r| weight[r] * x[r * d + c]).sum::<f64>());
                }
                for (i, &got) in dx.iter().enumerate() {
                    assert_eq!(got, pass * (1.0 - weight[i / d]) * x[i]);
                }
            }
            mix_rows_grad(Some((&mut drow, Write::Set)), None, &x, None, d, &mut workspace);
            assert_eq!(drow[0], (0..rows).map(|r| x[r * d]).sum::<f64>());
        }
    }

    #[test]
    fn weights_rows() {
        for (rows, d) in SIZES.into_iter().chain([(0, 3)]) {
            let batch = 3;
            let (x, weight, dout) = (numbers(batch * rows * d, 1), numbers(batch * rows, 2), numbers(batch * d, 3));
            let sizes = [batch, rows, d];
            let mut out = vec![f64::NAN; batch * d];
            weighted_rows(&mut out, &x, &weight, sizes);
            for (i, &got) in out.iter().enumerate() {
                let (b, c) = (i / d, i % d);
                assert_eq!(got, (0..rows).map(|l| weight[b * rows + l] * x[(b * rows + l) * d + c]).sum::<f64>());
            }
            let (mut dx, mut dweight) = (vec![f64::NAN; x.len()], vec![f64::NAN; weight.len()]);
            for (pass, write) in [(1.0, Write::Set), (2.0, Write::Add)] {
                weighted_rows_grad(&mut dx, write, Some(&mut dweight), &x, &weight, &dout, sizes);
                for (i, &got) in dx.iter().enumerate() {
                    assert_eq!(got, pass * weight[i / d] * dout[i / d / rows * d + i % d]);
                }
                for (i, &got) in dweight.iter().enumerate() {
                    assert_eq!(got, (0..d).map(|c| x[i * d + c] * dout[i / rows * d + c]).sum::<f64>());
                }
            }
        }
    }
}
