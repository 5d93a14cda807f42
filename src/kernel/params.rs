//! Sizes and constants of every kernel: `#[repr(C)]` structs whose bytes are a uniform of WGSL and a parameter of PTX.
//!
//! A template's struct is the one named after it (`copy_blocks`: [`CopyBlocks`]), or that of its family. All fields are scalars of 4 bytes, so
//! that field `i` lies at byte `4 i` in every language.

use bytemuck::{Pod, Zeroable};

use crate::op::philox::{Keep, Place};
use crate::op::{self, DropoutSite};
use crate::{Error, Result};

/// A scalar of a params struct.
pub trait Scalar: Pod {
    /// Its type in WGSL.
    const NAME: &'static str;
}
impl Scalar for u32 {
    const NAME: &'static str = "u32";
}
impl Scalar for i32 {
    const NAME: &'static str = "i32";
}
impl Scalar for f32 {
    const NAME: &'static str = "f32";
}

/// A params struct.
pub trait Params: Pod {
    /// The templates that take it: one, or all kernels of a family.
    const TEMPLATES: &'static [&'static str];
    /// Names and types of its fields; field `i` lies at byte `4 i`.
    const FIELDS: &'static [(&'static str, &'static str)];
}

macro_rules! params {
    ($($(#[$doc:meta])* $($template:literal)+ $name:ident { $($(#[$field_doc:meta])* $field:ident: $T:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
            #[repr(C)]
            pub struct $name { $($(#[$field_doc])* pub $field: $T,)* }
            impl Params for $name {
                const TEMPLATES: &'static [&'static str] = &[$($template),+];
                const FIELDS: &'static [(&'static str, &'static str)] =
                    &[$((stringify!($field), <$T as Scalar>::NAME),)*];
            }
        )*
        /// Template and fields of every struct.
        pub const ALL: &[(&str, &[(&str, &str)])] = &[$($(($template, <$name as Params>::FIELDS),)+)*];
    };
}

params! {
    /// Of `fill`.
    "fill" Fill {
        /// Elements.
        n: u32,
        /// The constant.
        value: f32,
    }
    /// Of `copy_blocks`.
    "copy_blocks" CopyBlocks {
        /// Elements of all blocks.
        n: u32,
        /// Length of a block.
        length: u32,
        /// First source element.
        src_offset: u32,
        /// Distance of source blocks.
        src_stride: u32,
        /// First destination element.
        dst_offset: u32,
        /// Distance of destination blocks.
        dst_stride: u32,
    }
    /// Of `gather_rows`.
    "gather_rows" GatherRows {
        /// Elements of the result.
        n: u32,
        /// Row length.
        d: u32,
        /// Rows of the table.
        rows: u32,
    }
    /// Of `dropout` and the activations. Without dropout all elements are one row.
    "dropout" "activation" "activation_grad" Elements {
        /// Rows.
        rows: u32,
        /// Row length.
        d: u32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
        /// Rows of a batch row in the first part.
        lead: u32,
        /// Rows of a batch row in the second part.
        tail: u32,
        /// Rows of the first part.
        split: u32,
    }
    /// Of `adam`.
    "adam" Adam {
        /// Elements.
        n: u32,
        /// Factor of the gradient.
        grad_scale: f32,
        /// Factor of the learning rate.
        lr_scale: f32,
    }
    /// Of `adam_all`.
    "adam_all" AdamAll {
        /// Blocks that have work.
        pieces: u32,
    }
    /// Of `square_norm_all`.
    "square_norm_all" SquareNormAll {
        /// Blocks that have work.
        pieces: u32,
    }
    /// Of `cast_all`.
    "cast_all" CastAll {
        /// Blocks that have work.
        pieces: u32,
    }
    /// Of `cast`.
    "cast" "cast_half" Cast {
        /// Elements.
        n: u32,
    }
    /// Of `column_sum`.
    "column_sum" ColumnSum {
        /// Rows.
        rows: u32,
        /// Columns.
        n: u32,
        /// Rows of a block.
        block: u32,
    }
    /// Of `element_loss`.
    "element_loss" ElementLoss {
        /// Rows.
        rows: u32,
    }
    /// Of `gather_rows_grad`.
    "gather_rows_grad" GatherRowsGrad {
        /// Elements.
        n: u32,
        /// Row length.
        d: u32,
        /// Rows.
        rows: u32,
        /// Rows gathered.
        ids: u32,
    }
    /// Of `gather_rows_grad_links`.
    "gather_rows_grad_links" GatherRowsGradLinks {
        /// Rows gathered.
        ids: u32,
    }
    /// Of `layer_norm`.
    "layer_norm" LayerNorm {
        /// Rows.
        rows: u32,
        /// Row length.
        d: u32,
        /// Added to the variance.
        eps: f32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
        /// 1: write mean; 2: write rstd.
        statistics: u32,
        /// Rows of a batch row in the first part.
        lead: u32,
        /// Rows of a batch row in the second part.
        tail: u32,
        /// Rows of the first part.
        split: u32,
    }
    /// Of `layer_norm_grad`.
    "layer_norm_grad" LayerNormGrad {
        /// Rows.
        rows: u32,
        /// Row length.
        d: u32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
        /// Rows of a batch row in the first part.
        lead: u32,
        /// Rows of a batch row in the second part.
        tail: u32,
        /// Rows of the first part.
        split: u32,
    }
    /// Of `layer_norm_grad_columns`.
    "layer_norm_grad_columns" LayerNormGradColumns {
        /// Rows.
        rows: u32,
        /// Row length.
        d: u32,
        /// Rows of a block.
        block: u32,
    }
    /// Of `matmul`.
    "matmul" "matmul_cooperative" Matmul {
        /// Rows of the result.
        m: u32,
        /// Columns of the result.
        n: u32,
        /// Summed dimension.
        k: u32,
    }
    /// Of products in half precision on matrix units.
    "matmul_half" "matmul_volta" MatmulHalf {
        /// Rows of the result.
        m: u32,
        /// Columns of the result.
        n: u32,
        /// Summed dimension.
        k: u32,
        /// Elements of it that a block sums, a multiple of 32.
        part: u32,
    }
    /// Of `mix_rows`.
    "mix_rows" MixRows {
        /// Elements.
        n: u32,
        /// Row length.
        d: u32,
    }
    /// Of `mix_rows_grad`.
    "mix_rows_grad" MixRowsGrad {
        /// Elements.
        n: u32,
        /// Row length.
        d: u32,
    }
    /// Of `position_encoding`.
    "position_encoding" PositionEncoding {
        /// Rows of a table.
        positions: u32,
        /// Row length.
        d: u32,
        /// Number of keys; distances run from it downwards.
        keys: u32,
        /// Largest distance.
        clamp_len: u32,
        /// Rows of a block.
        block: u32,
        /// 1 / (2 pi) in units of 2^-64, high word.
        turn_high: u32,
        /// Its low word.
        turn_low: u32,
        /// 10000^(-2/d) in units of 2^-64, high word.
        ratio_high: u32,
        /// Its low word.
        ratio_low: u32,
    }
    /// Of the kernels of relative attention; `work` is the op's scratch. Offsets are in words of 4 bytes.
    "rel_attention" "rel_attention_grad" "rel_attention_grad_deltas" "rel_attention_grad_keys" "rel_attention_grad_rows"
    "rel_attention_grad_positions" "rel_attention_mma" "rel_attention_mma_deltas" "rel_attention_mma_grad"
    "rel_attention_mma_grad_keys" "rel_attention_mma_grad_positions" "rel_attention_mma_grad_positions_sum"
    "rel_attention_mma_segments" "rel_attention_rows" "rel_attention_segments" "rel_attention_wgmma"
    "rel_attention_wgmma_grad_keys" RelAttention {
        /// B.
        batch: u32,
        /// H.
        heads: u32,
        /// D.
        d: u32,
        /// Rows of the stream: L, or T in the query stream.
        rows: u32,
        /// L.
        length: u32,
        /// M.
        memory: u32,
        /// N = M + L.
        keys: u32,
        /// P = N + L.
        positions: u32,
        /// G.
        groups: u32,
        /// Of all score terms.
        scale: f32,
        /// Number of the dropout place.
        site: u32,
        /// 16 bits below this drop a probability; 0: no dropout.
        threshold: u32,
        /// Factor of kept probabilities.
        keep: f32,
        /// Keys after the row's own position are hidden.
        causal: u32,
        /// Each row sees M + 1 keys.
        same_length: u32,
        /// 1: rows do not see themselves.
        query: u32,
        /// 1: there is a segment term.
        segments: u32,
        /// 1: add to the results.
        accumulate: u32,
        /// `[B, rows]` row of r that belongs to key 0, counted over all groups; 0xffffffff: padded target.
        starts: u32,
        /// `[B, rows, 2, ceil(N/32)]` bits: keys hidden from the row; keys of another segment.
        hidden: u32,
        /// `[B, H, rows, 2]` f32: segment term of a key of the same, of another segment.
        scores: u32,
        /// `[B, H, rows]` f32: sum of dout * out.
        deltas: u32,
        /// `[B, H, rows]` f32: sum of ds over keys of another segment.
        row_sums: u32,
        /// `[B, H, N]` f32: sum of ds over rows.
        column_sums: u32,
        /// `[G, H, P]` f32: sum of ds over the pairs of a row of r; with tensor cores `[splits, G, H, P]`.
        position_sums: u32,
        /// First batch row of the slab, the part of the batch and of its rows whose ds is in scratch.
        first_batch: u32,
        /// Batch rows of the slab.
        batches: u32,
        /// First row of the slab.
        first_row: u32,
        /// Rows of the slab, a multiple of 32.
        slab_rows: u32,
        /// WGSL: `[batches, H, slab_rows, 32 ceil(N/32)]` f32: ds. Tensor cores: `[splits, G, P, H, D]` f32: dr.
        slab: u32,
        /// `[batches, H, slab_rows, ceil(N/32)]` f32: sum of p over 32 keys, those of another segment.
        others: u32,
        /// Parts of a slab's batch rows whose sums of dr are made side by side.
        splits: u32,
    }
    /// Of `rel_attention_grad_bias`.
    "rel_attention_grad_bias" RelAttentionGradBias {
        /// Rows in all.
        rows: u32,
        /// Rows that share a weight vector of one head.
        length: u32,
        /// Heads.
        heads: u32,
        /// Head size.
        d: u32,
        /// Rows of a block.
        block: u32,
        /// First word of the weights in scratch.
        weights: u32,
        /// First word of the sums in scratch.
        sums: u32,
    }
    /// Of `rel_attention_grad_bias_sum`.
    "rel_attention_grad_bias_sum" RelAttentionGradBiasSum {
        /// Columns.
        n: u32,
        /// Rows of the sums.
        blocks: u32,
        /// First word of the sums in scratch.
        sums: u32,
        /// First element written.
        first: u32,
        /// 1 or -1.
        factor: f32,
    }
    /// Of `softmax`.
    "softmax" Softmax {
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    }
    /// Of `softmax_cross_entropy`.
    "softmax_cross_entropy" SoftmaxCrossEntropy {
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    }
    /// Of `softmax_grad`.
    "softmax_grad" SoftmaxGrad {
        /// Rows.
        rows: u32,
        /// Columns.
        columns: u32,
    }
    /// Of `sum`.
    "sum" Sum {
        /// Elements.
        n: u32,
        /// Elements of a part.
        part: u32,
    }
    /// Of `weighted_rows`.
    "weighted_rows" WeightedRows {
        /// Elements.
        n: u32,
        /// Row length.
        d: u32,
        /// Rows.
        rows: u32,
    }
    /// Of `weighted_rows_grad`.
    "weighted_rows_grad" WeightedRowsGrad {
        /// Elements.
        n: u32,
        /// Row length.
        d: u32,
        /// Rows.
        rows: u32,
    }
}

/// Constants of a dropout place; zeros without dropout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drop {
    /// Number of the place.
    pub site: u32,
    /// Elements whose 16 random bits are below this are dropped.
    pub threshold: u32,
    /// Factor of kept elements.
    pub scale: f32,
    /// Rows of a batch row in the first part.
    pub lead: u32,
    /// Rows of a batch row in the second part.
    pub tail: u32,
    /// Rows of the first part.
    pub split: u32,
}

impl Drop {
    /// Constants of a site of attention, which knows its rows.
    ///
    /// # Errors
    /// When the rate is not in `[0, 1)`.
    pub fn of_attention(site: Option<DropoutSite>) -> Result<Self> {
        let Some(site) = site else { return Ok(Drop::default()) };
        let keep = Keep::new([0, 0], f64::from(site.rate))?;
        Ok(Drop { site: site.site, threshold: keep.threshold(), scale: keep.scale() as f32, ..Drop::default() })
    }
    /// Constants of a site of a tensor of `rows` rows, with a key of `key_len` words.
    ///
    /// # Errors
    /// When the rate is not in `[0, 1)`, or the rows are no multiple of those of the batch.
    pub fn new(site: Option<DropoutSite>, rows: usize, key_len: usize) -> Result<Self> {
        let Some(DropoutSite { lead, .. }) = site else { return Ok(Drop::default()) };
        let place = Place::new(rows, DropoutSite::batch(key_len), lead)
            .ok_or_else(|| Error::shape("dropout", "rows", format!("{lead} or more for each batch row"), rows))?;
        let (tail, split) = (size(place.tail)?, size(place.split)?);
        Ok(Drop { lead: size(lead)?, tail, split, ..Drop::of_attention(site)? })
    }
}

/// A size as kernels count.
///
/// # Errors
/// When it does not fit 32 bits.
pub fn size(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::device(format!("{value} elements are more than kernels count (32 bits)")))
}

impl CopyBlocks {
    /// Sizes of `op`, in units of `unit` elements.
    ///
    /// # Errors
    /// When one does not fit 32 bits.
    pub fn new(op: &op::CopyBlocks, unit: usize) -> Result<Self> {
        Ok(CopyBlocks {
            n: size(op.blocks * op.length / unit)?,
            length: size(op.length / unit)?,
            src_offset: size(op.src_offset / unit)?,
            src_stride: size(op.src_stride / unit)?,
            dst_offset: size(op.dst_offset / unit)?,
            dst_stride: size(op.dst_stride / unit)?,
        })
    }
}
