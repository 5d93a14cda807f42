//! Fused relative attention: content, position and segment terms, masks, dropout and an optional query stream in one op.
//!
//! For one batch row and head, with query row `i` at position `i` of the segment and key `j` counted from the start of the
//! memory (`M` memory rows, `L` segment rows, `N = M + L` keys):
//!
//! ```text
//! score(i,j) = scale * ((q_i + w_bias) . k_j + (q_i + r_bias) . r[group, L - i + j] + (q_i + s_bias) . seg_embed[different(i,j)])
//! p          = softmax_j(score, hidden scores replaced by -1e30)
//! out_i      = sum_j keep(i,j) * p(i,j) * v_j,        lse_i = ln sum_j exp(score(i,j))
//! ```
//!
//! - A row that sees no key is uniform over all `N` keys, and its gradient flows as if it had seen them.
//! - Memory columns are hidden by `causal` and `same_length` only; memory counts as segment id 0.
//! - The content stream (`q [B,L,H,D]`) always sees its own position. The query stream (`q [B,T,H,D]` with a position per
//!   row) shares `k`, `v`, `r` and all biases, and is hidden from its own position where the mask says so. Its rows with
//!   position -1 are padding: output 0, `lse` 0, no gradient.
//! - Row `t` of `r` is relative distance `N - t`; row 0 is never read.
//! - Dropout follows [`philox`](crate::op::philox), counter word 1 being the row of the stream's `q` (not its position).
//!
//! Nothing of size `[B,H,L,N]` is stored. A task takes a head and a fixed share of the batch rows of one group of `r`,
//! and works on tiles of some dozen query rows by all keys, which stay in the second-level cache. The position term is a
//! band product `T = (Q + r_bias) R_band^T` whose row is added with the row's shift: `S[i][j] += T[i][shift_i + j]`.
//! Results do not depend on the number of threads, bit for bit.

use super::blocks::parallel;
use super::real::Real;
use super::rel_attention_tile::{Buffers, Plan, Stream, Tile, chunks, rows_of_slot, score_tile, slots, take};
use super::tile::{Left, Right, multiply, pack_rows, padded};
use super::vector::{self, Shared, vectorize};
use crate::op::philox::Keep;
use crate::{Error, Result};

/// What a hidden score becomes.
pub const HIDDEN: f64 = -1e30;

/// Sizes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Batch rows, B.
    pub batch: usize,
    /// Heads, H.
    pub heads: usize,
    /// Elements of a head, D.
    pub head_dim: usize,
    /// Rows of the segment, L; also the content stream's query rows.
    pub rows: usize,
    /// Rows of the memory, M.
    pub memory: usize,
    /// Rows of the query stream, T; 0 without one.
    pub query_rows: usize,
    /// Groups of relative positions, G; 0 without relative terms.
    pub groups: usize,
}

impl Sizes {
    /// Keys, N = M + L.
    pub fn keys(&self) -> usize {
        self.memory + self.rows
    }
    /// Rows of `r`, P = N + L.
    pub fn positions(&self) -> usize {
        self.keys() + self.rows
    }
    /// Elements from one row of `[rows,H,D]` to the next.
    pub(super) fn stride(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Which keys of the segment a query may not see; the memory is never masked here.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a> {
    /// Every key is visible.
    None,
    /// `[B,L]`: key `j` is hidden iff the value is not 0 (1 = padding).
    Padding(&'a [i32]),
    /// Permutation order: hidden iff `query[i] <= key[j]`.
    Ranks {
        /// `[B,L]`, by the query's position.
        query: &'a [i32],
        /// `[B,L]`.
        key: &'a [i32],
    },
    /// `[B,L,ceil(L/32)]` by the query's position: key `j` is hidden iff bit `j % 32` of word `j / 32` is set.
    Bits(&'a [u32]),
}

/// The query stream.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a, R> {
    /// `[B,T,H,D]`.
    pub q: &'a [R],
    /// `[B,T]`: position in the segment, or -1 for a padded target. Any order; ascending is fastest.
    pub positions: &'a [i32],
}

/// The position term.
#[derive(Clone, Copy, Debug)]
pub struct Relative<'a, R> {
    /// Projected relative positions `[G,P,H,D]`.
    pub r: &'a [R],
    /// `[B]`: which group a batch row reads; all read group 0 when absent.
    pub group: Option<&'a [i32]>,
    /// `[H,D]`, added to the query of the content term.
    pub w_bias: &'a [R],
    /// `[H,D]`, added to the query of the position term.
    pub r_bias: &'a [R],
}

/// The segment term.
#[derive(Clone, Copy, Debug)]
pub struct Segments<'a, R> {
    /// `[H,D]`.
    pub s_bias: &'a [R],
    /// `[2,H,D]`: same segment, different segment.
    pub seg_embed: &'a [R],
    /// `[B,L]`, compared for equality only.
    pub ids: &'a [i32],
}

/// Dropout of the probabilities.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// Key and rate of this step.
    pub keep: Keep,
    /// `[B]`, the number of each batch row in the whole batch.
    pub batch_rows: &'a [u32],
    /// Site of the content stream.
    pub content_site: u32,
    /// Site of the query stream.
    pub query_site: u32,
}

/// What is read. At least one of the streams is present.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, R> {
    /// Queries of the content stream `[B,L,H,D]`.
    pub content: Option<&'a [R]>,
    /// The query stream.
    pub query: Option<Query<'a, R>>,
    /// Keys `[B,N,H,D]`.
    pub k: &'a [R],
    /// Values `[B,N,H,D]`.
    pub v: &'a [R],
    /// The position term.
    pub relative: Option<Relative<'a, R>>,
    /// The segment term.
    pub segments: Option<Segments<'a, R>>,
    /// Hidden keys.
    pub mask: Mask<'a>,
    /// Hides key `j` from position `i` iff `j > M + i`.
    pub causal: bool,
    /// Also hides it iff `j < i`, so that every position sees equally many keys.
    pub same_length: bool,
    /// Usually `D^-1/2`.
    pub scale: R,
    /// Dropout of the probabilities.
    pub dropout: Option<Dropout<'a>>,
}

/// What the forward op sets. A stream that is absent has empty slices.
#[derive(Debug)]
pub struct Outputs<'a, R> {
    /// `[B,L,H,D]`.
    pub out: &'a mut [R],
    /// `[B,H,L]`.
    pub lse: &'a mut [R],
    /// `[B,T,H,D]`.
    pub query_out: &'a mut [R],
    /// `[B,H,T]`.
    pub query_lse: &'a mut [R],
}

/// Elements of workspace with which [`forward`] uses `threads` threads.
pub fn workspace_len(sizes: &Sizes, threads: usize) -> usize {
    Plan::new(sizes, 0, &forward_parts(sizes)).workspace_len(threads)
}

/// Sets `outputs`. Uses as many threads as `workspace` (see [`workspace_len`]) has room for.
///
/// # Errors
/// When a slice has not the length that `sizes` asks for, an index is out of range, or the workspace is too short for
/// one thread.
pub fn forward<R: Real>(
    sizes: &Sizes,
    inputs: &Inputs<'_, R>,
    outputs: &mut Outputs<'_, R>,
    workspace: &mut [R],
) -> Result<()> {
    inputs.check(OP, sizes)?;
    let [out, query_out] = inputs.stream_lengths(sizes);
    check_len(OP, "out", outputs.out.len(), out)?;
    check_len(OP, "lse", outputs.lse.len(), out / sizes.head_dim)?;
    check_len(OP, "query_out", outputs.query_out.len(), query_out)?;
    check_len(OP, "query_lse", outputs.query_lse.len(), query_out / sizes.head_dim)?;
    let plan = Plan::new(sizes, 0, &forward_parts(sizes));
    let [_, workspace] = plan.split(OP, workspace)?;
    let targets = [
        [Shared::new(outputs.out), Shared::new(outputs.lse)],
        [Shared::new(outputs.query_out), Shared::new(outputs.query_lse)],
    ];
    parallel(slots(sizes) * sizes.heads, workspace, plan.per_thread, |task, workspace| {
        let (slot, h) = (task / sizes.heads, task % sizes.heads);
        let mut rest = workspace;
        let mut buffers = Buffers::new(sizes, &mut rest);
        let [v, o, keep] = forward_parts(sizes).map(|len| take(&mut rest, len));
        let mut packed_r = false;
        for b in rows_of_slot(sizes, inputs.group(), slot) {
            if !packed_r {
                buffers.pack_r(sizes, inputs, slot / chunks(sizes), h);
                packed_r = true;
            }
            let at = (b * sizes.keys() * sizes.heads + h) * sizes.head_dim;
            buffers.pack_k(sizes, inputs, [b, h]);
            pack_rows(v, &inputs.v[at..], sizes.stride(), sizes.keys(), sizes.head_dim);
            for (stream, [out, lse]) in inputs.streams(sizes).iter().zip(&targets) {
                let Some(stream) = stream else { continue };
                // SAFETY: rows of this batch row and head are written by this task only.
                let out_row = |i| unsafe { out.slice(stream.at(sizes, b, i, h), sizes.head_dim) };
                // SAFETY: as above.
                let lse = unsafe { lse.slice((b * sizes.heads + h) * stream.rows, stream.rows) };
                for i in stream.padding(b) {
                    out_row(i).fill(R::ZERO);
                    lse[i] = R::ZERO;
                }
                let mut next = 0;
                while let Some(tile) = Tile::next(stream, b, &mut next, sizes) {
                    score_tile(sizes, inputs, stream, &tile, [b, h], &mut buffers);
                    let sums = softmax_tile(sizes, inputs, stream, &tile, [b, h], &mut buffers, keep, lse);
                    let n = sizes.keys();
                    let d = padded(sizes.head_dim);
                    let p = Left::Rows(buffers.s, buffers.s_stride);
                    multiply(o, d, p, Right::rows(v, d), [tile.len, n, d], false);
                    for (t, o) in o.chunks_exact(d).take(tile.len).enumerate() {
                        let inverse = R::ONE / sums[t];
                        for (out, &o) in out_row(tile.rows[t]).iter_mut().zip(o) {
                            *out = o * inverse;
                        }
                    }
                }
            }
        }
    });
    Ok(())
}

/// Buffers of a thread beside [`Buffers`]: v, output tile, dropout row.
pub(super) fn forward_parts(sizes: &Sizes) -> [usize; 3] {
    let d = padded(sizes.head_dim);
    [sizes.keys() * d, Tile::ROWS * d, sizes.keys()]
}

/// Scores of a tile become exp(score - max), with dropout; the answer is the sum of each row before dropout.
fn softmax_tile<R: Real>(
    sizes: &Sizes,
    inputs: &Inputs<'_, R>,
    stream: &Stream<'_, R>,
    tile: &Tile,
    [b, h]: [usize; 2],
    buffers: &mut Buffers<'_, R>,
    keep: &mut [R],
    lse: &mut [R],
) -> [R; Tile::ROWS] {
    let n = sizes.keys();
    let mut sums = [R::ONE; Tile::ROWS];
    vectorize(
        #[inline(always)]
        || {
            for t in 0..tile.len {
                let row = &mut buffers.s[t * buffers.s_stride..][..n];
                let max = vector::max(row, row[0]);
                for s in row.iter_mut() {
                    *s = (*s - max).exp();
                }
                sums[t] = vector::sum(row);
                lse[tile.rows[t]] = max + sums[t].ln();
                if let Some(dropout) = inputs.dropout {
                    let keep = &mut keep[..n];
                    let counter = [tile.rows[t] as u32, dropout.head(sizes, b, h), stream.site];
                    dropout.keep.row(counter, 0, R::from_f64(dropout.keep.scale()), keep);
                    for (s, &keep) in row.iter_mut().zip(&*keep) {
                        *s *= keep;
                    }
                }
            }
        },
    );
    sums
}

const OP: &str = "rel_attention";

impl Dropout<'_> {
    /// Word 2 of the counters of head `h` of batch row `b`.
    pub(super) fn head(&self, sizes: &Sizes, b: usize, h: usize) -> u32 {
        self.batch_rows[b].wrapping_mul(sizes.heads as u32).wrapping_add(h as u32)
    }
}

impl<'a, R: Real> Inputs<'a, R> {
    pub(super) fn group(&self) -> Option<&'a [i32]> {
        self.relative.and_then(|relative| relative.group)
    }

    /// The content and the query stream.
    pub(super) fn streams(&self, sizes: &Sizes) -> [Option<Stream<'a, R>>; 2] {
        let site = |site: fn(&Dropout) -> u32| self.dropout.as_ref().map_or(0, site);
        [
            self.content.map(|q| Stream {
                q,
                rows: sizes.rows,
                positions: None,
                site: site(|dropout| dropout.content_site),
            }),
            self.query.map(|query| Stream {
                q: query.q,
                rows: sizes.query_rows,
                positions: Some(query.positions),
                site: site(|dropout| dropout.query_site),
            }),
        ]
    }

    /// Elements of `out` and `query_out`.
    pub(super) fn stream_lengths(&self, sizes: &Sizes) -> [usize; 2] {
        let row = sizes.batch * sizes.stride();
        [self.content.map_or(0, |_| row * sizes.rows), self.query.map_or(0, |_| row * sizes.query_rows)]
    }

    /// Every slice has its length and every index is in range.
    pub(super) fn check(&self, op: &str, sizes: &Sizes) -> Result<()> {
        let &Sizes { batch, heads, head_dim, rows, query_rows, groups, .. } = sizes;
        if batch * heads * head_dim * rows == 0 {
            return Err(Error::shape(
                op,
                "sizes",
                "batch, heads, head_dim and rows of at least 1",
                format!("{sizes:?}"),
            ));
        }
        if self.content.is_none() && self.query.is_none() {
            return Err(Error::shape(op, "inputs", "a content or a query stream", "neither"));
        }
        if self.relative.is_some() != (groups > 0) {
            return Err(Error::shape(op, "sizes.groups", "0 exactly when there is no r", groups));
        }
        let [out, query_out] = self.stream_lengths(sizes);
        let keys = batch * sizes.keys() * sizes.stride();
        check_len(op, "q", self.content.map_or(0, <[R]>::len), out)?;
        check_len(op, "k", self.k.len(), keys)?;
        check_len(op, "v", self.v.len(), keys)?;
        if let Some(query) = &self.query {
            check_len(op, "query q", query.q.len(), query_out)?;
            check_len(op, "positions", query.positions.len(), batch * query_rows)?;
            check_range(op, "positions", query.positions, -1, rows)?;
        }
        if let Some(relative) = &self.relative {
            check_len(op, "r", relative.r.len(), groups * sizes.positions() * sizes.stride())?;
            check_len(op, "w_bias", relative.w_bias.len(), sizes.stride())?;
            check_len(op, "r_bias", relative.r_bias.len(), sizes.stride())?;
            if let Some(group) = relative.group {
                check_len(op, "group", group.len(), batch)?;
                check_range(op, "group", group, 0, groups)?;
            }
        }
        if let Some(segments) = &self.segments {
            check_len(op, "s_bias", segments.s_bias.len(), sizes.stride())?;
            check_len(op, "seg_embed", segments.seg_embed.len(), 2 * sizes.stride())?;
            check_len(op, "segment ids", segments.ids.len(), batch * rows)?;
        }
        match self.mask {
            Mask::None => Ok(()),
            Mask::Padding(padding) => check_len(op, "padding mask", padding.len(), batch * rows),
            Mask::Ranks { query, key } => {
                check_len(op, "query ranks", query.len(), batch * rows)?;
                check_len(op, "key ranks", key.len(), batch * rows)
            }
            Mask::Bits(bits) => check_len(op, "mask bits", bits.len(), batch * rows * rows.div_ceil(32)),
        }
    }
}

pub(super) fn check_len(op: &str, what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::shape(op, what, format_args!("{expected} elements"), got))
}

fn check_range(op: &str, what: &str, values: &[i32], low: i32, end: usize) -> Result<()> {
    match values.iter().find(|&&x| x < low || i64::from(x) >= end as i64) {
        None => Ok(()),
        Some(x) => Err(Error::shape(op, what, format_args!("values from {low} to {}", end as i64 - 1), x)),
    }
}
