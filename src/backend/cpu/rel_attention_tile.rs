//! What forward and backward of relative attention share: tasks, tiles of query rows, and their scores.

use super::real::Real;
use super::rel_attention::{HIDDEN, Inputs, Mask, Sizes};
use super::tile::{ALIGN, Left, Right, multiply, pack_rows, pack_transposed, packed_len, padded, row_stride};
use super::vector::{self, vectorize};
use crate::{Error, Result};

/// Tasks that a call is split into, if the batch has rows enough: fixed, so that partial sums do not depend on the
/// number of threads.
const TASKS: usize = 32;

/// Shares that the batch rows of each group are split into.
pub fn chunks(sizes: &Sizes) -> usize {
    TASKS.div_ceil(sizes.heads * sizes.groups.max(1)).min(sizes.batch)
}

/// Slots: one per group and share of its batch rows. A task is a head of a slot.
pub fn slots(sizes: &Sizes) -> usize {
    sizes.groups.max(1) * chunks(sizes)
}

/// The batch rows of a slot, ascending.
pub fn rows_of_slot<'g>(sizes: &Sizes, group: Option<&'g [i32]>, slot: usize) -> impl Iterator<Item = usize> + use<'g> {
    let chunks = chunks(sizes);
    let wanted = (slot / chunks) as i32;
    let members = (0..sizes.batch).filter(move |&b| group.map_or(0, |group| group[b]) == wanted);
    let share = members.clone().count().div_ceil(chunks);
    members.skip(slot % chunks * share).take(share)
}

/// Workspace of a call: a part that all threads share, then one part per thread.
pub struct Plan {
    shared: usize,
    /// Elements per thread.
    pub per_thread: usize,
}

impl Plan {
    /// A plan with `shared` elements, and `parts` beside the [`Buffers`] of each thread.
    pub fn new(sizes: &Sizes, shared: usize, parts: &[usize]) -> Self {
        let len = |parts: &[usize]| parts.iter().map(|&len| padded(len)).sum::<usize>();
        Self { shared: padded(shared), per_thread: len(&Buffers::<f32>::parts(sizes)) + len(parts) }
    }

    /// Elements for `threads` threads, with room to begin at a cache line.
    pub fn workspace_len(&self, threads: usize) -> usize {
        self.shared + self.per_thread * threads.max(1) + ALIGN
    }

    /// The workspace from its first cache line on, split into the shared part and the threads' parts.
    pub fn split<'w, R: Real>(&self, op: &str, workspace: &'w mut [R]) -> Result<[&'w mut [R]; 2]> {
        let (need, got) = (self.workspace_len(1), workspace.len());
        if got < need {
            return Err(Error::shape(op, "workspace", format_args!("at least {need} elements"), got));
        }
        // A slice that cannot be aligned is as right, only slower.
        let skip = workspace.as_ptr().align_offset(64).min(ALIGN);
        Ok(workspace[skip..].split_at_mut(self.shared).into())
    }
}

/// Splits the first `n` elements off, and some more so that the rest begins at a cache line.
pub fn take<'w, R>(rest: &mut &'w mut [R], n: usize) -> &'w mut [R] {
    let (head, tail) = std::mem::take(rest).split_at_mut(padded(n));
    *rest = tail;
    &mut head[..n]
}

/// Queries of one stream.
pub struct Stream<'a, R> {
    /// `[B,rows,H,D]`.
    pub q: &'a [R],
    /// L or T.
    pub rows: usize,
    /// `[B,rows]`; row `i` is at position `i` when absent, and then sees itself.
    pub positions: Option<&'a [i32]>,
    /// Of the dropout.
    pub site: u32,
}

impl<'a, R: Real> Stream<'a, R> {
    /// Where the elements of row `i` begin.
    pub fn at(&self, sizes: &Sizes, b: usize, i: usize, h: usize) -> usize {
        ((b * self.rows + i) * sizes.heads + h) * sizes.head_dim
    }

    /// The position of row `i`, `None` where it is padding.
    fn position(&self, b: usize, i: usize) -> Option<usize> {
        self.positions.map_or(Some(i), |positions| usize::try_from(positions[b * self.rows + i]).ok())
    }

    /// The rows that are padding.
    pub fn padding(&self, b: usize) -> impl Iterator<Item = usize> + use<'_, 'a, R> {
        let rows = if self.positions.is_some() { self.rows } else { 0 };
        (0..rows).filter(move |&i| self.position(b, i).is_none())
    }
}

/// Query rows that are worked on together.
pub struct Tile {
    /// How many.
    pub len: usize,
    /// Their rows in the stream.
    pub rows: [usize; Self::ROWS],
    /// Their positions in the segment.
    pub positions: [usize; Self::ROWS],
    /// First row of `r` of the band, a multiple of [`ALIGN`].
    pub band: usize,
    /// Rows of the band, a multiple of [`ALIGN`].
    pub width: usize,
}

impl Tile {
    /// Most rows of a tile: eight register blocks.
    pub const ROWS: usize = 48;

    /// Largest distance of two positions of a tile: what rows in sequence have, or a quarter of the keys, which is the
    /// share by which the band product then exceeds the content product.
    fn span(sizes: &Sizes) -> usize {
        (Self::ROWS - 1).max(sizes.keys() / 4)
    }

    /// The next rows from `next` on whose positions lie close together; `None` at the end of the stream.
    pub fn next<R: Real>(stream: &Stream<'_, R>, b: usize, next: &mut usize, sizes: &Sizes) -> Option<Self> {
        let mut tile = Self { len: 0, rows: [0; _], positions: [0; _], band: 0, width: 0 };
        let (mut low, mut high) = (usize::MAX, 0);
        while *next < stream.rows && tile.len < Self::ROWS {
            if let Some(position) = stream.position(b, *next) {
                let (new_low, new_high) = (low.min(position), high.max(position));
                if new_high - new_low > Self::span(sizes) {
                    break;
                }
                (low, high) = (new_low, new_high);
                tile.rows[tile.len] = *next;
                tile.positions[tile.len] = position;
                tile.len += 1;
            }
            *next += 1;
        }
        if tile.len == 0 {
            return None;
        }
        tile.band = (sizes.rows - high) / ALIGN * ALIGN;
        tile.width = padded(sizes.rows - low + sizes.keys() - tile.band);
        Some(tile)
    }

    /// Column of the band that row `t` of the tile adds to key 0.
    pub fn shift(&self, sizes: &Sizes, t: usize) -> usize {
        sizes.rows - self.positions[t] - self.band
    }
}

/// Buffers of a thread that forward and backward have in common. `d` is the padded head dimension.
pub struct Buffers<'w, R> {
    /// Keys, transposed and packed.
    pub kt: &'w mut [R],
    /// Relative positions, transposed and packed.
    pub rt: &'w mut [R],
    /// `scale * (q + w_bias)` of the tile `[ROWS,d]`.
    pub qw: &'w mut [R],
    /// `scale * (q + r_bias)` of the tile `[ROWS,d]`.
    pub qr: &'w mut [R],
    /// Scores `[ROWS,s_stride]`.
    pub s: &'w mut [R],
    /// Position scores before the shift `[ROWS,band_stride]`.
    pub band: &'w mut [R],
    /// At least N.
    pub s_stride: usize,
    /// At least the width of every tile's band.
    pub band_stride: usize,
}

impl<'w, R: Real> Buffers<'w, R> {
    /// `s_stride` and `band_stride`.
    pub fn strides(sizes: &Sizes) -> [usize; 2] {
        // Both ends of a band are rounded to ALIGN.
        [sizes.keys(), sizes.keys() + Tile::span(sizes) + 2 * ALIGN].map(row_stride)
    }

    fn parts(sizes: &Sizes) -> [usize; 6] {
        let d = padded(sizes.head_dim);
        let [s, band] = Self::strides(sizes);
        let relative = sizes.groups.min(1);
        [
            packed_len(sizes.keys(), sizes.head_dim),
            relative * packed_len(sizes.positions(), sizes.head_dim),
            Tile::ROWS * d,
            relative * Tile::ROWS * d,
            Tile::ROWS * s,
            relative * Tile::ROWS * band,
        ]
    }

    /// Takes the buffers from the front of `rest`.
    pub fn new(sizes: &Sizes, rest: &mut &'w mut [R]) -> Self {
        let [kt, rt, qw, qr, s, band] = Self::parts(sizes).map(|len| take(rest, len));
        let [s_stride, band_stride] = Self::strides(sizes);
        Self { kt, rt, qw, qr, s, band, s_stride, band_stride }
    }

    /// Packs head `h` of group `group` of `r`, if there is one.
    pub fn pack_r(&mut self, sizes: &Sizes, inputs: &Inputs<'_, R>, group: usize, h: usize) {
        if let Some(relative) = &inputs.relative {
            let (p, d) = (sizes.positions(), sizes.head_dim);
            pack_transposed(self.rt, &relative.r[(group * p * sizes.heads + h) * d..], sizes.stride(), p, d);
        }
    }

    /// Packs head `h` of `k` for batch row `b`.
    pub fn pack_k(&mut self, sizes: &Sizes, inputs: &Inputs<'_, R>, [b, h]: [usize; 2]) {
        let (n, d) = (sizes.keys(), sizes.head_dim);
        pack_transposed(self.kt, &inputs.k[(b * n * sizes.heads + h) * d..], sizes.stride(), n, d);
    }
}

/// Gathers one head of the tile's rows of a `[B,rows,H,D]` tensor to `[len,d]`, padded with zeros.
pub fn gather<R: Real>(
    target: &mut [R],
    source: &[R],
    stream: &Stream<'_, R>,
    tile: &Tile,
    sizes: &Sizes,
    [b, h]: [usize; 2],
) {
    for (target, &i) in target.chunks_exact_mut(padded(sizes.head_dim)).zip(&tile.rows[..tile.len]) {
        pack_rows(target, &source[stream.at(sizes, b, i, h)..], 0, 1, sizes.head_dim);
    }
}

/// Sets the biased queries `qw` and `qr`, and the masked scores `s [len,N]`.
pub fn score_tile<R: Real>(
    sizes: &Sizes,
    inputs: &Inputs<'_, R>,
    stream: &Stream<'_, R>,
    tile: &Tile,
    [b, h]: [usize; 2],
    buffers: &mut Buffers<'_, R>,
) {
    let (n, d) = (sizes.keys(), sizes.head_dim);
    let biased = |target: &mut [R], bias: &[R]| {
        gather(target, stream.q, stream, tile, sizes, [b, h]);
        for target in target.chunks_exact_mut(padded(d)).take(tile.len) {
            for (q, &bias) in target.iter_mut().zip(&bias[h * d..][..d]) {
                *q += bias;
            }
            target.iter_mut().for_each(|q| *q *= inputs.scale);
        }
    };
    match &inputs.relative {
        None => {
            gather(buffers.qw, stream.q, stream, tile, sizes, [b, h]);
            buffers.qw.iter_mut().for_each(|q| *q *= inputs.scale);
        }
        Some(relative) => {
            biased(buffers.qw, relative.w_bias);
            biased(buffers.qr, relative.r_bias);
            let r = Right::packed(buffers.rt, d, tile.band);
            let q = Left::Rows(buffers.qr, padded(d));
            multiply(buffers.band, buffers.band_stride, q, r, [tile.len, d, tile.width], false);
        }
    }
    let (q, k) = (Left::Rows(buffers.qw, padded(d)), Right::packed(buffers.kt, d, 0));
    multiply(buffers.s, buffers.s_stride, q, k, [tile.len, d, padded(n)], false);

    vectorize(
        #[inline(always)]
        || {
            for t in 0..tile.len {
                let s = &mut buffers.s[t * buffers.s_stride..][..n];
                let position = tile.positions[t];
                if inputs.relative.is_some() {
                    let shift = t * buffers.band_stride + tile.shift(sizes, t);
                    vector::add(s, &buffers.band[shift..][..n]);
                }
                if let Some(segments) = &inputs.segments {
                    let q = &stream.q[stream.at(sizes, b, tile.rows[t], h)..][..d];
                    let bias = &segments.s_bias[h * d..][..d];
                    let (embed, other) = segments.seg_embed.split_at(sizes.stride());
                    let same = inputs.scale * dot_biased(q, bias, &embed[h * d..][..d]);
                    let different = inputs.scale * dot_biased(q, bias, &other[h * d..][..d]);
                    add_segments(s, same, different, &segments.ids[b * sizes.rows..][..sizes.rows], position);
                }
                hide(s, sizes, inputs, b, position, stream.positions.is_none());
            }
        },
    );
}

/// `(q + bias) . e`.
#[inline(always)]
fn dot_biased<R: Real>(q: &[R], bias: &[R], e: &[R]) -> R {
    vector::dot(q, e) + vector::dot(bias, e)
}

/// Adds `same` where a key has the segment of `position`, else `different`; memory is segment 0.
#[inline(always)]
fn add_segments<R: Real>(s: &mut [R], same: R, different: R, ids: &[i32], position: usize) {
    let own = ids[position];
    let (memory, segment) = s.split_at_mut(s.len() - ids.len());
    let term = if own == 0 { same } else { different };
    memory.iter_mut().for_each(|s| *s += term);
    for (s, &id) in segment.iter_mut().zip(ids) {
        *s += if id == own { same } else { different };
    }
}

/// Replaces the hidden scores of the query at `position`.
#[inline(always)]
fn hide<R: Real>(s: &mut [R], sizes: &Sizes, inputs: &Inputs<'_, R>, b: usize, position: usize, sees_itself: bool) {
    let (l, memory) = (sizes.rows, sizes.memory);
    let hidden = R::from_f64(HIDDEN);
    let own = s[memory + position];
    let segment = &mut s[memory..];
    match inputs.mask {
        Mask::None => {}
        Mask::Padding(padding) => {
            for (s, &padding) in segment.iter_mut().zip(&padding[b * l..]) {
                *s = if padding != 0 { hidden } else { *s };
            }
        }
        Mask::Ranks { query, key } => {
            let rank = query[b * l + position];
            for (s, &key) in segment.iter_mut().zip(&key[b * l..]) {
                *s = if rank <= key { hidden } else { *s };
            }
        }
        Mask::Bits(bits) => {
            let words = l.div_ceil(32);
            for (s, &word) in segment.chunks_mut(32).zip(&bits[(b * l + position) * words..]) {
                for (bit, s) in s.iter_mut().enumerate() {
                    *s = if word >> bit & 1 == 1 { hidden } else { *s };
                }
            }
        }
    }
    if inputs.causal {
        s[memory + position + 1..].fill(hidden);
    }
    if inputs.same_length {
        s[..position].fill(hidden);
    }
    if sees_itself {
        s[memory + position] = own;
    }
}
