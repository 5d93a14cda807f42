//! Sizes and constants of every kernel: `#[repr(C)]` structs whose bytes are a uniform of WGSL and a parameter of PTX.
//!
//! A template's struct is the one named after it (`copy_blocks`: [`CopyBlocks`]). All fields are scalars of 4 bytes, so
//! that field `i` lies at byte `4 i` in every language.

use bytemuck::{Pod, Zeroable};

use crate::op::philox::Keep;
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
    /// The template.
    const TEMPLATE: &'static str;
    /// Names and types of its fields; field `i` lies at byte `4 i`.
    const FIELDS: &'static [(&'static str, &'static str)];
}

macro_rules! params {
    ($($(#[$doc:meta])* $template:literal $name:ident { $($(#[$field_doc:meta])* $field:ident: $T:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
            #[repr(C)]
            pub struct $name { $($(#[$field_doc])* pub $field: $T,)* }
            impl Params for $name {
                const TEMPLATE: &'static str = $template;
                const FIELDS: &'static [(&'static str, &'static str)] =
                    &[$((stringify!($field), <$T as Scalar>::NAME),)*];
            }
        )*
        /// Template and fields of every struct.
        pub const ALL: &[(&str, &[(&str, &str)])] = &[$(($template, <$name as Params>::FIELDS),)*];
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
    /// Of `dropout`.
    "dropout" Dropout {
        /// Elements.
        n: u32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
    }
    /// Of `activation`.
    "activation" Activation {
        /// Elements.
        n: u32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
    }
    /// Of `activation_grad`.
    "activation_grad" ActivationGrad {
        /// Elements.
        n: u32,
        /// Number of the dropout place.
        site: u32,
        /// Elements whose 16 random bits are below this are dropped.
        threshold: u32,
        /// Factor of kept elements.
        scale: f32,
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
    "matmul" Matmul {
        /// Rows of the result.
        m: u32,
        /// Columns of the result.
        n: u32,
        /// Summed dimension.
        k: u32,
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

/// Site, threshold and scale of a dropout place; zeros without dropout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drop {
    /// Number of the place.
    pub site: u32,
    /// Elements whose 16 random bits are below this are dropped.
    pub threshold: u32,
    /// Factor of kept elements.
    pub scale: f32,
}

impl Drop {
    /// Constants of `site`.
    ///
    /// # Errors
    /// When the rate is not in `[0, 1)`.
    pub fn new(site: Option<DropoutSite>) -> Result<Self> {
        let Some(site) = site else { return Ok(Drop::default()) };
        let keep = Keep::new([0, 0], f64::from(site.rate))?;
        Ok(Drop { site: site.site, threshold: keep.threshold(), scale: keep.scale() as f32 })
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
    /// Sizes of `op`.
    ///
    /// # Errors
    /// When one does not fit 32 bits.
    pub fn new(op: &op::CopyBlocks) -> Result<Self> {
        Ok(CopyBlocks {
            n: size(op.blocks * op.length)?,
            length: size(op.length)?,
            src_offset: size(op.src_offset)?,
            src_stride: size(op.src_stride)?,
            dst_offset: size(op.dst_offset)?,
            dst_stride: size(op.dst_stride)?,
        })
    }
}
