//! Fill, copies, gathers, weighted sums of rows.

use super::{Context, Launch, Slice};
use crate::Result;
use crate::kernel::params::{self, size};
use crate::kernel::{Language, Variant};
use crate::op::{
    Cast, CopyBlocks, Fill, GatherRows, GatherRowsGrad, MixRows, MixRowsGrad, Target, WeightedRows, WeightedRowsGrad,
    Write,
};
use crate::tensor::TensorId;

/// Invocations of a work group where each owns one element.
const WG: u32 = 256;
/// Invocations of a work group where each does more than that.
const WG_SMALL: u32 = 64;

/// `n` elements from `out` on become `value`.
fn fill_with(out: Slice, n: usize, dtype: &'static str, value: f32, c: &Context) -> Result<Launch> {
    let variant = Variant::new("fill").name("dtype", dtype).int("wg", WG);
    c.launch_slices(variant, &params::Fill { n: size(n)?, value }, &[Some(out)], c.flat(n, WG as usize)?)
}

pub fn fill(op: &Fill, c: &Context) -> Result<Vec<Launch>> {
    Ok(vec![fill_with((c.slice)(op.out), c.len(op.out), c.dtype(op.out)?, op.value, c)?])
}

/// Elements of a work group of `cast`.
const CAST: usize = 4 * WG as usize;

pub fn cast(op: &Cast, c: &Context) -> Result<Vec<Launch>> {
    Ok(vec![cast_slice((c.slice)(op.src), op.out, c)?])
}

/// `out` becomes `src`, in f32, rounded to its type.
pub fn cast_slice(src: Slice, out: TensorId, c: &Context) -> Result<Launch> {
    let (n, dtype) = (c.len(out), c.half(out)?);
    let vec = [n, src.binding().1 as usize, c.first(out)].iter().all(|x| x.is_multiple_of(4));
    // WGSL reserves the word.
    let template = if c.caps.language == Language::Wgsl { "cast_half" } else { "cast" };
    let variant = Variant::new(template).name("dtype", dtype).flag("vec", vec).int("wg", WG);
    let buffers = [src, (c.slice)(out)].map(Some);
    c.launch_slices(variant, &params::Cast { n: size(n)? }, &buffers, c.flat(n, CAST)?)
}

pub fn copy_blocks(op: &CopyBlocks, c: &Context) -> Result<Vec<Launch>> {
    let add = op.dst.write == Write::Add;
    let halves = c.caps.language == Language::Ptx && c.desc(op.src).dtype.is_half();
    let CopyBlocks { src_offset, src_stride, dst_offset, dst_stride, length, .. } = *op;
    let places = [src_offset, src_stride, dst_offset, dst_stride, length, c.first(op.src), c.first(op.dst.id)];
    // Halves go by twos where all blocks have whole ones.
    let (dtype, unit) = match halves {
        false => (c.element(op.src)?, 1),
        true if places.iter().all(|place| place.is_multiple_of(2)) => ("u32", 2),
        true => ("b16", 1),
    };
    let params = params::CopyBlocks::new(op, unit)?;
    let variant = Variant::new("copy_blocks").name("dtype", dtype).flag("add", add).int("wg", WG);
    let grid = c.flat(op.blocks * length / unit, WG as usize)?;
    Ok(vec![c.launch(variant, &params, &[Some(op.src), Some(op.dst.id)], grid)?])
}

pub fn gather_rows(op: &GatherRows, c: &Context) -> Result<Vec<Launch>> {
    let (n, d) = (c.len(op.out), c.last(op.table));
    let variant = Variant::new("gather_rows").name("dtype", c.dtype(op.table)?).int("wg", WG);
    let params = params::GatherRows { n: size(n)?, d: size(d)?, rows: size(c.desc(op.table).shape.rows())? };
    Ok(vec![c.launch(variant, &params, &[Some(op.table), Some(op.ids), Some(op.out)], c.flat(n, WG as usize)?)?])
}

/// One word a gathered row.
pub fn gather_rows_grad_workspace(rows: usize) -> usize {
    4 * rows
}

pub fn gather_rows_grad(op: &GatherRowsGrad, c: &Context) -> Result<Vec<Launch>> {
    let (Target { id: table, write }, n, rows) = (op.dtable, c.len(op.dout), c.len(op.ids));
    let (d, dtype, links) = (c.last(table), c.dtype(table)?, c.scratch(0, rows)?);
    let mut launches = vec![];
    if write == Write::Set {
        launches.push(fill_with((c.slice)(table), c.len(table), dtype, 0.0, c)?);
    }
    let variant = Variant::new("gather_rows_grad_links").int("wg", WG_SMALL);
    let params = params::GatherRowsGradLinks { ids: size(rows)? };
    let buffers = [Some((c.slice)(op.ids)), Some(links)];
    launches.push(c.launch_slices(variant, &params, &buffers, c.flat(rows, WG_SMALL as usize)?)?);
    let variant = Variant::new("gather_rows_grad").name("dtype", dtype).flag("add", write == Write::Add).int("wg", WG);
    let table_rows = size(c.desc(table).shape.rows())?;
    let params = params::GatherRowsGrad { n: size(n)?, d: size(d)?, rows: table_rows, ids: size(rows)? };
    let buffers = [Some((c.slice)(op.dout)), Some((c.slice)(op.ids)), Some(links), Some((c.slice)(table))];
    launches.push(c.launch_slices(variant, &params, &buffers, c.flat(n, WG as usize)?)?);
    Ok(launches)
}

pub fn mix_rows(op: &MixRows, c: &Context) -> Result<Vec<Launch>> {
    let n = c.len(op.out);
    let weighted = op.weight.is_some();
    let variant = Variant::new("mix_rows").name("dtype", c.dtype(op.row)?).flag("weighted", weighted).int("wg", WG);
    let params = params::MixRows { n: size(n)?, d: size(c.len(op.row))? };
    let buffers = [op.x, Some(op.row), op.weight, Some(op.out)];
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, WG as usize)?)?])
}

/// Row length of the gradient of `mix_rows`: without weights there is no dx, and `drow` alone tells it.
fn mixed_row(op: &MixRowsGrad, c: &Context) -> usize {
    match (op.drow, op.weight) {
        (Some(drow), _) => c.len(drow.id),
        (None, Some(weight)) => c.len(op.dout) / c.len(weight).max(1),
        (None, None) => 1,
    }
}

pub fn mix_rows_grad(op: &MixRowsGrad, c: &Context) -> Result<Vec<Launch>> {
    let (n, d) = (c.len(op.dout), mixed_row(op, c).max(1));
    let mut launches = vec![];
    // First the sum: dx may be dout.
    if let Some(drow) = op.drow {
        let columns = Columns { x: (c.slice)(op.dout), weight: op.weight, rows: n / d, n: d };
        launches.extend(column_sums(columns, c.dtype(op.dout)?, drow, c)?);
    }
    if let (Some(dx), Some(weight)) = (op.dx, op.weight) {
        let add = dx.write == Write::Add;
        let variant = Variant::new("mix_rows_grad").name("dtype", c.dtype(op.dout)?).flag("add", add).int("wg", WG);
        let params = params::MixRowsGrad { n: size(n)?, d: size(d)? };
        let buffers = [op.dout, weight, dx.id].map(Some);
        launches.push(c.launch(variant, &params, &buffers, c.flat(n, WG as usize)?)?);
    }
    Ok(launches)
}

pub fn weighted_rows(op: &WeightedRows, c: &Context) -> Result<Vec<Launch>> {
    let n = c.len(op.out);
    let variant = Variant::new("weighted_rows").name("dtype", c.dtype(op.x)?).int("wg", WG_SMALL);
    let params = params::WeightedRows { n: size(n)?, d: size(c.last(op.x))?, rows: size(c.last(op.weight))? };
    let buffers = [op.x, op.weight, op.out].map(Some);
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, WG_SMALL as usize)?)?])
}

pub fn weighted_rows_grad(op: &WeightedRowsGrad, c: &Context) -> Result<Vec<Launch>> {
    let n = c.len(op.weight);
    let variant = Variant::new("weighted_rows_grad")
        .name("dtype", c.dtype(op.x)?)
        .flag("add", op.dx.write == Write::Add)
        .flag("dweight", op.dweight.is_some())
        .int("wg", WG_SMALL);
    let variant = c.reducing(variant);
    let params = params::WeightedRowsGrad { n: size(n)?, d: size(c.last(op.x))?, rows: size(c.last(op.weight))? };
    let buffers = [Some(op.x), Some(op.weight), Some(op.dout), Some(op.dx.id), op.dweight];
    Ok(vec![c.launch(variant, &params, &buffers, c.flat(n, 1)?)?])
}

/// Rows of a block of column sums: a few hundred additions in a row, and enough blocks to fill a GPU.
const BLOCK: usize = 64;

/// A matrix whose columns are summed.
#[derive(Clone, Copy)]
pub struct Columns {
    /// The matrix.
    pub x: Slice, // [rows, n]
    /// Factor of each row.
    pub weight: Option<TensorId>, // [rows]
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub n: usize,
}

/// Bytes of scratch of [`column_sums`].
pub fn column_sums_workspace(rows: usize, n: usize) -> usize {
    if rows <= BLOCK { 0 } else { 4 * rows.div_ceil(BLOCK) * n }
}

/// Number of blocks that `rows` are cut into.
pub fn blocks(rows: usize) -> usize {
    rows.div_ceil(BLOCK).max(1)
}
/// Rows of a block.
pub const fn block_rows() -> usize {
    BLOCK
}

/// `out[c] (=|+=) sum over r of weight[r] * x[r, c]`: in one launch, or block by block by way of the op's scratch.
pub fn column_sums(columns: Columns, source: &'static str, out: Target, c: &Context) -> Result<Vec<Launch>> {
    let Columns { rows, n, .. } = columns;
    let dtype = c.dtype(out.id)?;
    let add = out.write == Write::Add;
    if rows <= BLOCK {
        return Ok(vec![column_sum_step(columns, source, (c.slice)(out.id), dtype, add, rows.max(1), c)?]);
    }
    let scratch = c.scratch(0, blocks(rows) * n)?;
    let first = column_sum_step(columns, source, scratch, "f32", false, BLOCK, c)?;
    let sums = Columns { x: scratch, weight: None, rows: blocks(rows), n };
    let second = column_sum_step(sums, "f32", (c.slice)(out.id), dtype, add, blocks(rows), c)?;
    Ok(vec![first, second])
}

/// One launch of `column_sum`.
pub fn column_sum_step(
    columns: Columns,
    source: &'static str,
    out: Slice,
    dtype: &'static str,
    add: bool,
    block: usize,
    c: &Context,
) -> Result<Launch> {
    let Columns { x, weight, rows, n } = columns;
    let variant = Variant::new("column_sum")
        .name("source", source)
        .name("dtype", dtype)
        .flag("weighted", weight.is_some())
        .flag("add", add)
        .int("wg", WG_SMALL);
    let params = params::ColumnSum { rows: size(rows)?, n: size(n)?, block: size(block)? };
    let grid = [size(n.div_ceil(WG_SMALL as usize))?, size(rows.div_ceil(block).max(1))?, 1];
    c.launch_slices(variant, &params, &[Some(x), weight.map(|id| (c.slice)(id)), Some(out)], c.fits(grid)?)
}
