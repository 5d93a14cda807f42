//! Copies, gathers and weighted sums of rows.

use super::{Operation, Target, Tensors, Write};
use crate::Result;
use crate::tensor::{DType, TensorId};

/// `out = value`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// Result.
    pub out: TensorId, // [n]
    /// The constant.
    pub value: f32,
}

/// `for i in 0..blocks: dst[dst_offset + i*dst_stride ..][..length] (=|+=) src[src_offset + i*src_stride ..][..length]`:
/// concatenation and slicing along any axis. Elements of `dst` outside the blocks keep their value.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyBlocks {
    /// Source.
    pub src: TensorId,
    /// First source element.
    pub src_offset: usize, // elements
    /// Distance of source blocks; 0 repeats one block.
    pub src_stride: usize, // elements
    /// Destination.
    pub dst: Target,
    /// First destination element.
    pub dst_offset: usize, // elements
    /// Distance of destination blocks.
    pub dst_stride: usize, // elements
    /// Number of blocks.
    pub blocks: usize,
    /// Length of one block.
    pub length: usize, // elements
}

/// `out[r] = table[ids[r]]`; a negative id gives a row of zeros. Embedding lookup, and any gather of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherRows {
    /// Rows to choose from.
    pub table: TensorId, // [V, d]
    /// Which row.
    pub ids: TensorId, // [R] i32
    /// Result.
    pub out: TensorId, // [R, d]
}

/// `dtable[ids[r]] += dout[r]`, in ascending order of `r`; rows that no id names get 0 under [`Write::Set`].
#[derive(Clone, Debug, PartialEq)]
pub struct GatherRowsGrad {
    /// Gradient of the gathered rows.
    pub dout: TensorId, // [R, d]
    /// Which row.
    pub ids: TensorId, // [R] i32
    /// Gradient of the table.
    pub dtable: Target, // [V, d]
}

/// `out[r] = weight[r] * row + (1 - weight[r]) * x[r]`: the query stream's input. Without `x` and `weight` every row is
/// `row`.
#[derive(Clone, Debug, PartialEq)]
pub struct MixRows {
    /// Rows kept where the weight is 0; given exactly when `weight` is.
    pub x: Option<TensorId>, // [R, d]
    /// The row mixed in.
    pub row: TensorId, // [d]
    /// How much of `row`.
    pub weight: Option<TensorId>, // [R]
    /// Result.
    pub out: TensorId, // [R, d]
}

/// `drow (=|+=) sum of weight[r] * dout[r]; dx (=|+=) (1 - weight[r]) * dout[r]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MixRowsGrad {
    /// Gradient of the result.
    pub dout: TensorId, // [R, d]
    /// The forward op's weights.
    pub weight: Option<TensorId>, // [R]
    /// Gradient of `row`; `None` when it is frozen.
    pub drow: Option<Target>, // [d]
    /// Gradient of `x`; only with weights.
    pub dx: Option<Target>, // [R, d]
}

/// `out[b] = sum over l of weight[b, l] * x[b, l]`: mean pooling, and the expected start vector of SQuAD.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedRows {
    /// Rows.
    pub x: TensorId, // [B, L, d]
    /// Weights.
    pub weight: TensorId, // [B, L]
    /// Sums.
    pub out: TensorId, // [B, d]
}

/// `dx[b, l] (=|+=) weight[b, l] * dout[b]; dweight[b, l] = x[b, l] . dout[b]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedRowsGrad {
    /// Rows, as in the forward op.
    pub x: TensorId, // [B, L, d]
    /// Weights.
    pub weight: TensorId, // [B, L]
    /// Gradient of the sums.
    pub dout: TensorId, // [B, d]
    /// Gradient of the rows.
    pub dx: Target, // [B, L, d]
    /// Gradient of the weights, overwritten; `None` when they are constants.
    pub dweight: Option<TensorId>, // [B, L]
}

impl Operation for Fill {
    const NAME: &'static str = "fill";
    fn reads(&self) -> Vec<TensorId> {
        vec![]
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        t.expect_float("out", self.out)
    }
    fn flops(&self, _: &Tensors) -> u64 {
        0
    }
}

/// `out = src`, rounded to the element type of `out`, ties to even: operands of products in half precision.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Source.
    pub src: TensorId, // [n] f32 or f64
    /// Copy.
    pub out: TensorId, // [n] bf16 or f16
}

impl Operation for Cast {
    const NAME: &'static str = "cast";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.src]
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (from, to) = (t.get(self.src).dtype, t.get(self.out).dtype);
        t.expect("src", matches!(from, DType::F32 | DType::F64), "f32 or f64", from)?;
        t.expect("out", to.is_half(), "bf16 or f16", to)?;
        t.expect_len("out", self.out, t.shape(self.src).len())
    }
    fn flops(&self, _: &Tensors) -> u64 {
        0
    }
}

impl Operation for CopyBlocks {
    const NAME: &'static str = "copy_blocks";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.src]
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.dst]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (src, dst) = (t.get(self.src), t.get(self.dst.id));
        t.expect("dst", src.dtype == dst.dtype, src.dtype, dst.dtype)?;
        let exact = !src.dtype.is_half() || self.dst.write == Write::Set;
        t.expect("dst", exact, "a copy of half precision that overwrites", "one that accumulates")?;
        t.expect("dst", self.src != self.dst.id, "a tensor other than src", "src")?;
        t.expect("blocks", self.blocks > 0 && self.length > 0, "at least one element", 0)?;
        let last = self.blocks - 1;
        let src_end = self.src_offset + last * self.src_stride + self.length;
        let dst_end = self.dst_offset + last * self.dst_stride + self.length;
        t.expect("src", src_end <= src.shape.len(), format_args!("at least {src_end} elements"), src.shape)?;
        t.expect("dst", dst_end <= dst.shape.len(), format_args!("at least {dst_end} elements"), dst.shape)?;
        let disjoint = self.blocks == 1 || self.dst_stride >= self.length;
        t.expect("dst_stride", disjoint, format_args!("at least {}", self.length), self.dst_stride)?;
        Ok(())
    }
    fn flops(&self, _: &Tensors) -> u64 {
        if self.dst.write == Write::Add { (self.blocks * self.length) as u64 } else { 0 }
    }
}

/// Row length shared by a table and the rows gathered from it.
fn check_gather(t: &Tensors, table: TensorId, ids: TensorId, rows: TensorId) -> Result<()> {
    t.expect_float("table", table)?;
    t.expect_dtype("ids", ids, DType::I32)?;
    let (d, r) = (t.shape(table).last(), t.shape(ids).len());
    t.expect_len("rows", rows, r * d)
}

impl Operation for GatherRows {
    const NAME: &'static str = "gather_rows";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.table, self.ids]
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        check_gather(t, self.table, self.ids, self.out)
    }
    fn flops(&self, _: &Tensors) -> u64 {
        0
    }
}

impl Operation for GatherRowsGrad {
    const NAME: &'static str = "gather_rows_grad";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.dout, self.ids]
    }
    fn writes(&self) -> Vec<Target> {
        vec![self.dtable]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        check_gather(t, self.dtable.id, self.ids, self.dout)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        t.shape(self.dout).len() as u64
    }
}

impl Operation for MixRows {
    const NAME: &'static str = "mix_rows";
    fn reads(&self) -> Vec<TensorId> {
        [Some(self.row), self.x, self.weight].into_iter().flatten().collect()
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let (d, n) = (t.shape(self.row).len(), t.shape(self.out).len());
        t.expect_float("row", self.row)?;
        t.expect("row", d > 0 && n.is_multiple_of(d), "a divisor of the size of out", d)?;
        t.expect("x", self.x.is_some() == self.weight.is_some(), "x exactly when there are weights", "one alone")?;
        self.x.map_or(Ok(()), |x| t.expect_len("x", x, n))?;
        self.weight.map_or(Ok(()), |w| t.expect_len("weight", w, n / d))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        3 * t.shape(self.out).len() as u64
    }
}

impl Operation for MixRowsGrad {
    const NAME: &'static str = "mix_rows_grad";
    fn reads(&self) -> Vec<TensorId> {
        [Some(self.dout), self.weight].into_iter().flatten().collect()
    }
    fn writes(&self) -> Vec<Target> {
        self.drow.into_iter().chain(self.dx).collect()
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        let n = t.shape(self.dout).len();
        t.expect("dx", self.dx.is_none() || self.weight.is_some(), "weights wherever dx is asked for", "none")?;
        self.dx.map_or(Ok(()), |dx| t.expect_len("dx", dx.id, n))?;
        let Some(drow) = self.drow else { return Ok(()) };
        let d = t.shape(drow.id).len();
        t.expect("drow", d > 0 && n.is_multiple_of(d), "a divisor of the size of dout", d)?;
        self.weight.map_or(Ok(()), |w| t.expect_len("weight", w, n / d))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        4 * t.shape(self.dout).len() as u64
    }
}

/// Sizes shared by the weighted sum and its gradient.
fn check_weighted(t: &Tensors, x: TensorId, weight: TensorId, sums: TensorId) -> Result<()> {
    let (xs, ws) = (t.shape(x), t.shape(weight));
    let ok = xs.dims().len() == 3 && ws.dims() == &xs.dims()[..2];
    t.expect("weight", ok, "[B, L] beside x [B, L, d]", format_args!("{ws} beside {xs}"))?;
    t.expect_len("sums", sums, xs.dims()[0] * xs.dims()[2])
}

impl Operation for WeightedRows {
    const NAME: &'static str = "weighted_rows";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x, self.weight]
    }
    fn writes(&self) -> Vec<Target> {
        vec![Target::set(self.out)]
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        check_weighted(t, self.x, self.weight, self.out)
    }
    fn flops(&self, t: &Tensors) -> u64 {
        2 * t.shape(self.x).len() as u64
    }
}

impl Operation for WeightedRowsGrad {
    const NAME: &'static str = "weighted_rows_grad";
    fn reads(&self) -> Vec<TensorId> {
        vec![self.x, self.weight, self.dout]
    }
    fn writes(&self) -> Vec<Target> {
        let mut out = vec![self.dx];
        out.extend(self.dweight.map(Target::set));
        out
    }
    fn check(&self, t: &Tensors) -> Result<()> {
        check_weighted(t, self.x, self.weight, self.dout)?;
        t.expect_len("dx", self.dx.id, t.shape(self.x).len())?;
        self.dweight.map_or(Ok(()), |w| t.expect_len("dweight", w, t.shape(self.weight).len()))
    }
    fn flops(&self, t: &Tensors) -> u64 {
        4 * t.shape(self.x).len() as u64
    }
}
