//! Gradient of [`rel_attention`](super::rel_attention): scores are computed again, tile by tile, and nothing quadratic is
//! stored.
//!
//! With `delta_i = dout_i . out_i` and the probabilities `p = exp(score - lse)`,
//!
//! ```text
//! ds = p * (keep * dp - delta),  dp = dout v^T            dv += (keep * p)^T dout
//! dq = scale * (ds k + dt r + de1 * (seg_embed[1] - seg_embed[0]))
//! dk += ds^T (scale * (q + w_bias))                       dr += dt^T (scale * (q + r_bias))
//! ```
//!
//! where `dt` is `ds` shifted back into the band of `r` and `de1` the sum of `ds` over the keys of another segment. The
//! sum of `ds` over a row is zero, hence `de0 = -de1`: `seg_embed[0]` gets the negative of what `seg_embed[1]` gets.

use super::blocks::parallel;
use super::real::Real;
use super::rel_attention::{HIDDEN, Inputs, Sizes, check_len};
use super::rel_attention_tile::{Buffers, Plan, Stream, Tile, chunks, gather, rows_of_slot, score_tile, slots, take};
use super::tile::{Left, Right, multiply, pack_rows, pack_transposed, packed_len, padded};
use super::vector::{self, Shared, vectorize};
use crate::Result;

/// What the forward op left, and the gradients of its outputs. A stream that is absent has empty slices.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a, R> {
    /// `[B,L,H,D]`.
    pub out: &'a [R],
    /// `[B,H,L]`.
    pub lse: &'a [R],
    /// `[B,L,H,D]`.
    pub dout: &'a [R],
    /// `[B,T,H,D]`.
    pub query_out: &'a [R],
    /// `[B,H,T]`.
    pub query_lse: &'a [R],
    /// `[B,T,H,D]`.
    pub query_dout: &'a [R],
}

/// Gradient of a parameter, set or added to; empty where the parameter is frozen.
#[derive(Debug)]
pub struct ParamGrad<'a, R> {
    /// The gradient.
    pub data: &'a mut [R],
    /// Add to what is there; otherwise it is set.
    pub accumulate: bool,
}

/// What the backward op writes. What has no input is empty.
#[derive(Debug)]
pub struct Gradients<'a, R> {
    /// `[B,L,H,D]`, set.
    pub dq: &'a mut [R],
    /// `[B,T,H,D]`, set.
    pub query_dq: &'a mut [R],
    /// `[B,N,H,D]`, set: both streams together.
    pub dk: &'a mut [R],
    /// `[B,N,H,D]`, set: both streams together.
    pub dv: &'a mut [R],
    /// `[G,P,H,D]`, set.
    pub dr: &'a mut [R],
    /// `[H,D]`.
    pub dw_bias: ParamGrad<'a, R>,
    /// `[H,D]`.
    pub dr_bias: ParamGrad<'a, R>,
    /// `[H,D]`.
    pub ds_bias: ParamGrad<'a, R>,
    /// `[2,H,D]`.
    pub dseg_embed: ParamGrad<'a, R>,
}

const OP: &str = "rel_attention_grad";

/// Sums over rows that each task keeps: dw_bias, dr_bias, ds_bias, dseg_embed of another segment.
const SUMS: usize = 4;

/// Elements of workspace with which [`backward`] uses `threads` threads.
pub fn workspace_len(sizes: &Sizes, threads: usize) -> usize {
    plan(sizes).workspace_len(threads)
}

fn plan(sizes: &Sizes) -> Plan {
    Plan::new(sizes, shared_parts(sizes).iter().map(|&len| padded(len)).sum(), &parts(sizes))
}

/// Sums of every task, and dr of every slot where the batch rows of a group are shared out.
fn shared_parts(sizes: &Sizes) -> [usize; 2] {
    let tasks = slots(sizes) * sizes.heads;
    let dr = if sizes.groups > 0 && chunks(sizes) > 1 { tasks * sizes.positions() * sizes.head_dim } else { 0 };
    [tasks * SUMS * sizes.head_dim, dr]
}

/// Buffers of a thread beside [`Buffers`].
struct Scratch<'w, R> {
    vt: &'w mut [R],   // [N/PANEL,D,PANEL]
    k: &'w mut [R],    // [N,d]
    r: &'w mut [R],    // [P,d]
    dk: &'w mut [R],   // [N,d]
    dv: &'w mut [R],   // [N,d]
    dr: &'w mut [R],   // [P,d]
    dout: &'w mut [R], // [ROWS,d]
    dqw: &'w mut [R],  // [ROWS,d]
    dqr: &'w mut [R],  // [ROWS,d]
    dp: &'w mut [R],   // [ROWS,s_stride], then ds
    keep: &'w mut [R], // [N]
}

fn parts(sizes: &Sizes) -> [usize; 11] {
    let d = padded(sizes.head_dim);
    let n = sizes.keys() * d;
    let r = sizes.groups.min(1) * padded(sizes.positions()) * d;
    let tile = Tile::ROWS * d;
    let s = Tile::ROWS * Buffers::<f32>::strides(sizes)[0];
    [packed_len(sizes.keys(), sizes.head_dim), n, r, n, n, r, tile, tile, tile, s, sizes.keys()]
}

/// Sets or adds to `gradients`. Uses as many threads as `workspace` (see [`workspace_len`]) has room for; the result is
/// the same for any number.
///
/// # Errors
/// When a slice has not the length that `sizes` asks for, an index is out of range, or the workspace is too short for
/// one thread.
pub fn backward<R: Real>(
    sizes: &Sizes,
    inputs: &Inputs<'_, R>,
    saved: &Saved<'_, R>,
    gradients: &mut Gradients<'_, R>,
    workspace: &mut [R],
) -> Result<()> {
    inputs.check(OP, sizes)?;
    check(sizes, inputs, saved, gradients)?;
    let plan = plan(sizes);
    let [shared, workspace] = plan.split(OP, workspace)?;
    let mut rest = shared;
    let [sums, partial_dr] = shared_parts(sizes).map(|len| take(&mut rest, len));
    let (n, p, d, padded_d) = (sizes.keys(), sizes.positions(), sizes.head_dim, padded(sizes.head_dim));
    let divided = !partial_dr.is_empty();
    {
        let (all_sums, all_partial_dr, all_dr) =
            (Shared::new(sums), Shared::new(partial_dr), Shared::new(gradients.dr));
        let (all_dk, all_dv) = (Shared::new(gradients.dk), Shared::new(gradients.dv));
        let all_dq = [Shared::new(gradients.dq), Shared::new(gradients.query_dq)];
        let results = [(saved.out, saved.lse, saved.dout), (saved.query_out, saved.query_lse, saved.query_dout)];
        parallel(slots(sizes) * sizes.heads, workspace, plan.per_thread, |task, workspace| {
            let (slot, h) = (task / sizes.heads, task % sizes.heads);
            let group = slot / chunks(sizes);
            let mut rest = workspace;
            let mut buffers = Buffers::new(sizes, &mut rest);
            let [vt, k, r, dk, dv, dr, dout, dqw, dqr, dp, keep] = parts(sizes).map(|len| take(&mut rest, len));
            let mut scratch = Scratch { vt, k, r, dk, dv, dr, dout, dqw, dqr, dp, keep };
            // SAFETY: every task has sums of its own.
            let sums = unsafe { all_sums.slice(task * SUMS * d, SUMS * d) };
            sums.fill(R::ZERO);
            scratch.dr.fill(R::ZERO);
            let mut packed_r = false;
            for b in rows_of_slot(sizes, inputs.group(), slot) {
                if let (Some(relative), false) = (&inputs.relative, packed_r) {
                    buffers.pack_r(sizes, inputs, group, h);
                    let r = &relative.r[(group * p * sizes.heads + h) * d..];
                    pack_rows(scratch.r, r, sizes.stride(), p, d);
                    scratch.r[..padded_d].fill(R::ZERO);
                    scratch.r[p * padded_d..].fill(R::ZERO);
                    packed_r = true;
                }
                let at = |j: usize| ((b * n + j) * sizes.heads + h) * d;
                buffers.pack_k(sizes, inputs, [b, h]);
                pack_rows(scratch.k, &inputs.k[at(0)..], sizes.stride(), n, d);
                pack_transposed(scratch.vt, &inputs.v[at(0)..], sizes.stride(), n, d);
                scratch.dk.fill(R::ZERO);
                scratch.dv.fill(R::ZERO);
                for ((stream, &(out, lse, dout)), all_dq) in inputs.streams(sizes).iter().zip(&results).zip(&all_dq) {
                    let Some(stream) = stream else { continue };
                    // SAFETY: rows of this batch row and head are written by this task only.
                    let dq = |i| unsafe { all_dq.slice(stream.at(sizes, b, i, h), d) };
                    stream.padding(b).for_each(|i| dq(i).fill(R::ZERO));
                    let mut next = 0;
                    while let Some(tile) = Tile::next(stream, b, &mut next, sizes) {
                        let context = Context { sizes, inputs, stream, tile: &tile, b, h };
                        context.tile(out, lse, dout, &mut buffers, &mut scratch, sums, dq);
                    }
                }
                for j in 0..n {
                    // SAFETY: as above.
                    let (dk, dv) = unsafe { (all_dk.slice(at(j), d), all_dv.slice(at(j), d)) };
                    dk.copy_from_slice(&scratch.dk[j * padded_d..][..d]);
                    dv.copy_from_slice(&scratch.dv[j * padded_d..][..d]);
                }
            }
            for t in 0..if inputs.relative.is_some() { p } else { 0 } {
                // SAFETY: the part of this task, or head `h` of the group that is this task's alone.
                let dr = unsafe {
                    if divided {
                        all_partial_dr.slice((task * p + t) * d, d)
                    } else {
                        all_dr.slice(((group * p + t) * sizes.heads + h) * d, d)
                    }
                };
                dr.copy_from_slice(&scratch.dr[t * padded_d..][..d]);
            }
        });
    }
    if divided {
        reduce_dr(sizes, gradients.dr, partial_dr);
    }
    reduce_sums(sizes, inputs, gradients, sums);
    Ok(())
}

/// dr is the sum of the shares of each group, in their order.
fn reduce_dr<R: Real>(sizes: &Sizes, dr: &mut [R], partial: &[R]) {
    let (p, d, chunks) = (sizes.positions(), sizes.head_dim, chunks(sizes));
    for (row, dr) in dr.chunks_exact_mut(d).enumerate() {
        let (group, t, h) = (row / sizes.heads / p, row / sizes.heads % p, row % sizes.heads);
        let part = |chunk| &partial[(((group * chunks + chunk) * sizes.heads + h) * p + t) * d..][..d];
        dr.copy_from_slice(part(0));
        (1..chunks).for_each(|chunk| vector::add(dr, part(chunk)));
    }
}

/// Adds the sums of all tasks, slot by slot.
fn reduce_sums<R: Real>(sizes: &Sizes, inputs: &Inputs<'_, R>, gradients: &mut Gradients<'_, R>, sums: &[R]) {
    let d = sizes.head_dim;
    let add = |target: &mut [R], which: usize, sign: R| {
        if target.is_empty() {
            return; // frozen
        }
        for (task, sums) in sums.chunks_exact(SUMS * d).enumerate() {
            vector::axpy(&mut target[task % sizes.heads * d..][..d], sign, &sums[which * d..][..d]);
        }
    };
    let begin = |grad: &mut ParamGrad<'_, R>| {
        if !grad.accumulate {
            grad.data.fill(R::ZERO);
        }
    };
    let Gradients { dw_bias, dr_bias, ds_bias, dseg_embed, .. } = gradients;
    [&mut *dw_bias, dr_bias, ds_bias, dseg_embed].into_iter().for_each(begin);
    if inputs.relative.is_some() {
        add(dw_bias.data, 0, R::ONE);
        add(dr_bias.data, 1, R::ONE);
    }
    if inputs.segments.is_some() {
        add(ds_bias.data, 2, R::ONE);
        let half = dseg_embed.data.len() / 2;
        let (same, different) = dseg_embed.data.split_at_mut(half);
        add(same, 3, -R::ONE);
        add(different, 3, R::ONE);
    }
}

/// One tile of one stream.
struct Context<'a, R> {
    sizes: &'a Sizes,
    inputs: &'a Inputs<'a, R>,
    stream: &'a Stream<'a, R>,
    tile: &'a Tile,
    b: usize,
    h: usize,
}

impl<R: Real> Context<'_, R> {
    fn tile<'q>(
        &self,
        out: &[R],
        lse: &[R],
        dout: &[R],
        buffers: &mut Buffers<'_, R>,
        scratch: &mut Scratch<'_, R>,
        sums: &mut [R],
        dq: impl Fn(usize) -> &'q mut [R],
    ) where
        R: 'q,
    {
        let &Self { sizes, inputs, stream, tile, b, h } = self;
        let (n, m, d) = (sizes.keys(), tile.len, padded(sizes.head_dim));
        let stride = buffers.s_stride;
        score_tile(sizes, inputs, stream, tile, [b, h], buffers);
        gather(scratch.dout, dout, stream, tile, sizes, [b, h]);
        let vt = Right::packed(scratch.vt, sizes.head_dim, 0);
        multiply(scratch.dp, stride, Left::Rows(scratch.dout, d), vt, [m, sizes.head_dim, padded(n)], false);
        let de1 = self.ds(out, lse, dout, buffers, scratch);
        let dout = Right::rows(scratch.dout, d);
        multiply(scratch.dv, d, Left::Columns(buffers.s, stride), dout, [n, m, d], true);
        multiply(scratch.dk, d, Left::Columns(scratch.dp, stride), Right::rows(buffers.qw, d), [n, m, d], true);
        multiply(scratch.dqw, d, Left::Rows(scratch.dp, stride), Right::rows(scratch.k, d), [m, n, d], false);
        if inputs.relative.is_some() {
            let (stride, band) = (buffers.band_stride, tile.band * d);
            let dt = &*buffers.band;
            let qr = Right::rows(buffers.qr, d);
            multiply(&mut scratch.dr[band..], d, Left::Columns(dt, stride), qr, [tile.width, m, d], true);
            let r = Right::rows(&scratch.r[band..], d);
            multiply(scratch.dqr, d, Left::Rows(dt, stride), r, [m, tile.width, d], false);
        }
        self.queries(&de1, scratch, sums, dq);
    }

    /// `s` becomes `keep * p` and `dp` becomes `ds`, which is also shifted back into the band; the answer is the sum of
    /// each row of `ds` over the keys of another segment.
    fn ds(
        &self,
        out: &[R],
        lse: &[R],
        dout: &[R],
        buffers: &mut Buffers<'_, R>,
        scratch: &mut Scratch<'_, R>,
    ) -> [R; Tile::ROWS] {
        let &Self { sizes, inputs, stream, tile, b, h } = self;
        let n = sizes.keys();
        let mut de1 = [R::ZERO; Tile::ROWS];
        vectorize(
            #[inline(always)]
            || {
                for t in 0..tile.len {
                    let i = tile.rows[t];
                    let at = stream.at(sizes, b, i, h);
                    let delta = vector::dot(&dout[at..][..sizes.head_dim], &out[at..][..sizes.head_dim]);
                    let lse = lse[(b * sizes.heads + h) * stream.rows + i];
                    let s = &mut buffers.s[t * buffers.s_stride..][..n];
                    let dp = &mut scratch.dp[t * buffers.s_stride..][..n];
                    if lse < R::from_f64(0.5 * HIDDEN) {
                        // No visible key: lse = -1e30 + ln N has lost the ln N.
                        s.fill(R::ONE / R::from_f64(n as f64));
                    } else {
                        s.iter_mut().for_each(|s| *s = (*s - lse).exp());
                    }
                    if let Some(dropout) = inputs.dropout {
                        let keep = &mut scratch.keep[..n];
                        let counter = [i as u32, dropout.head(sizes, b, h), stream.site];
                        dropout.keep.row(counter, 0, R::from_f64(dropout.keep.scale()), keep);
                        for ((s, dp), &keep) in s.iter_mut().zip(dp.iter_mut()).zip(&*keep) {
                            let p = *s;
                            *s = p * keep;
                            *dp = p * keep.mul_add(*dp, -delta);
                        }
                    } else {
                        for (dp, &p) in dp.iter_mut().zip(&*s) {
                            *dp = p * (*dp - delta);
                        }
                    }
                    if let Some(segments) = &inputs.segments {
                        let ids = &segments.ids[b * sizes.rows..][..sizes.rows];
                        de1[t] = sum_of_others(dp, ids, ids[tile.positions[t]]);
                    }
                    if inputs.relative.is_some() {
                        let band = &mut buffers.band[t * buffers.band_stride..][..tile.width];
                        let shift = tile.shift(sizes, t);
                        band[..shift].fill(R::ZERO);
                        band[shift..shift + n].copy_from_slice(dp);
                        band[shift + n..].fill(R::ZERO);
                    }
                }
            },
        );
        de1
    }

    /// Writes dq of the tile and adds to the sums over rows.
    fn queries<'q>(
        &self,
        de1: &[R; Tile::ROWS],
        scratch: &Scratch<'_, R>,
        sums: &mut [R],
        dq: impl Fn(usize) -> &'q mut [R],
    ) where
        R: 'q,
    {
        let &Self { sizes, inputs, stream, tile, b, h } = self;
        let d = sizes.head_dim;
        let padded_d = padded(d);
        let (bias_sums, segment_sums) = sums.split_at_mut(2 * d);
        let (dw_bias, dr_bias) = bias_sums.split_at_mut(d);
        let (ds_bias, dseg) = segment_sums.split_at_mut(d);
        vectorize(
            #[inline(always)]
            || {
                for t in 0..tile.len {
                    let dq = dq(tile.rows[t]);
                    let content = &scratch.dqw[t * padded_d..][..d];
                    for ((dq, dw_bias), &content) in dq.iter_mut().zip(&mut *dw_bias).zip(content) {
                        *dq = inputs.scale * content;
                        *dw_bias += *dq;
                    }
                    if inputs.relative.is_some() {
                        let position = &scratch.dqr[t * padded_d..][..d];
                        for ((dq, dr_bias), &position) in dq.iter_mut().zip(&mut *dr_bias).zip(position) {
                            *dq += inputs.scale * position;
                            *dr_bias += inputs.scale * position;
                        }
                    }
                    if let Some(segments) = &inputs.segments {
                        let de1 = inputs.scale * de1[t];
                        let q = &stream.q[stream.at(sizes, b, tile.rows[t], h)..][..d];
                        let bias = &segments.s_bias[h * d..][..d];
                        let (same, different) = segments.seg_embed.split_at(sizes.stride());
                        let (same, different) = (&same[h * d..][..d], &different[h * d..][..d]);
                        for c in 0..d {
                            let step = de1 * (different[c] - same[c]);
                            dq[c] += step;
                            ds_bias[c] += step;
                            dseg[c] += de1 * (q[c] + bias[c]);
                        }
                    }
                }
            },
        );
    }
}

/// Sum of a row over the keys whose segment is not `own`; memory is segment 0.
#[inline(always)]
fn sum_of_others<R: Real>(row: &[R], ids: &[i32], own: i32) -> R {
    const LANES: usize = 16;
    let (memory, segment) = row.split_at(row.len() - ids.len());
    let mut acc = [R::ZERO; LANES];
    let (rows, row_rest) = segment.as_chunks::<LANES>();
    let (all_ids, ids_rest) = ids.as_chunks::<LANES>();
    let pick = |x: R, id: i32| if id == own { R::ZERO } else { x };
    for (x, id) in rows.iter().zip(all_ids) {
        for lane in 0..LANES {
            acc[lane] += pick(x[lane], id[lane]);
        }
    }
    for (acc, (&x, &id)) in acc.iter_mut().zip(row_rest.iter().zip(ids_rest)) {
        *acc += pick(x, id);
    }
    vector::sum(&acc) + if own == 0 { R::ZERO } else { vector::sum(memory) }
}

fn check<R: Real>(
    sizes: &Sizes,
    inputs: &Inputs<'_, R>,
    saved: &Saved<'_, R>,
    gradients: &Gradients<'_, R>,
) -> Result<()> {
    let [content, query] = inputs.stream_lengths(sizes);
    let keys = inputs.k.len();
    let relative = inputs.relative.as_ref();
    let bias = relative.map_or(0, |_| sizes.stride());
    let segments = inputs.segments.as_ref().map_or(0, |_| sizes.stride());
    for (what, got, expected) in [
        ("out", saved.out.len(), content),
        ("lse", saved.lse.len(), content / sizes.head_dim),
        ("dout", saved.dout.len(), content),
        ("query_out", saved.query_out.len(), query),
        ("query_lse", saved.query_lse.len(), query / sizes.head_dim),
        ("query_dout", saved.query_dout.len(), query),
        ("dq", gradients.dq.len(), content),
        ("query_dq", gradients.query_dq.len(), query),
        ("dk", gradients.dk.len(), keys),
        ("dv", gradients.dv.len(), keys),
        ("dr", gradients.dr.len(), relative.map_or(0, |relative| relative.r.len())),
    ] {
        check_len(OP, what, got, expected)?;
    }
    for (what, got, expected) in [
        ("dw_bias", gradients.dw_bias.data.len(), bias),
        ("dr_bias", gradients.dr_bias.data.len(), bias),
        ("ds_bias", gradients.ds_bias.data.len(), segments),
        ("dseg_embed", gradients.dseg_embed.data.len(), 2 * segments),
    ] {
        if got > 0 {
            check_len(OP, what, got, expected)?;
        }
    }
    Ok(())
}
