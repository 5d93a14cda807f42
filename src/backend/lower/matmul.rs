//! Matrix products and column sums.

use super::movement::{Columns, column_sums};
use super::{AMPERE, Context, Launch};
use crate::Result;
use crate::kernel::params::{self, size};
use crate::kernel::{Language, Variant};
use crate::op::{ColumnSum, MatMul, Write};
use crate::tensor::DType;

/// Side of the big tile; where it would leave most of a GPU idle, tiles of half the side are used.
const TILE: usize = 64;
/// Fewer tiles than this are too few.
const TILES: usize = 96;

pub fn matmul(op: &MatMul, c: &Context) -> Result<Vec<Launch>> {
    let halves = c.desc(op.a).dtype.is_half();
    if halves && c.caps.language == Language::Ptx {
        return half(op, c);
    }
    let MatMul { a, b, bias, out, m, n, k, trans_a, trans_b } = *op;
    let dtype = if halves { c.half(a)? } else { c.dtype(a)? };
    let into = into(op, c);
    let cooperative = c.caps.cooperative[usize::from(dtype == "f16")];
    if let Some(matrix) = cooperative.filter(|_| m.min(n).min(k) >= TILE / 2) {
        let variant = Variant::new("matmul_cooperative")
            .name("dtype", dtype)
            .int("size", matrix)
            .flag("trans_a", trans_a)
            .flag("trans_b", trans_b)
            .flag("bias", bias.is_some())
            .name("into", into);
        let params = params::Matmul { m: size(m)?, n: size(n)?, k: size(k)? };
        let grid = c.fits([size(n.div_ceil(TILE))?, size(m.div_ceil(TILE))?, 1])?;
        return Ok(vec![c.launch(variant, &params, &[Some(a), Some(b), bias, Some(out.id)], grid)?]);
    }
    let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
    let tile = if tiles < TILES || m <= TILE / 2 || n <= TILE / 2 { TILE / 2 } else { TILE };
    // Four elements at once where every row of every operand begins at a multiple of four.
    let contiguous = [if trans_a { m } else { k }, if trans_b { k } else { n }, n];
    let starts = [a, b, out.id].map(|id| c.first(id));
    let vec = contiguous.iter().chain(&starts).all(|x| x.is_multiple_of(4));
    let variant = Variant::new("matmul")
        .name("dtype", dtype)
        .flag("trans_a", trans_a)
        .flag("trans_b", trans_b)
        .flag("bias", bias.is_some())
        .name("into", into)
        .flag("vec", vec)
        .int("tile", tile as u32);
    let params = params::Matmul { m: size(m)?, n: size(n)?, k: size(k)? };
    let grid = c.fits([size(n.div_ceil(tile))?, size(m.div_ceil(tile))?, 1])?;
    Ok(vec![c.launch(variant, &params, &[Some(a), Some(b), bias, Some(out.id)], grid)?])
}

/// How a product is stored.
fn into(op: &MatMul, c: &Context) -> &'static str {
    match op.out.write {
        Write::Add => "add",
        Write::Set if c.desc(op.out.id).dtype.is_half() => "half",
        Write::Set => "set",
    }
}

/// Side of the big tile of products in half precision, which is eight times as much work for a matrix unit as for others.
const HALF_TILE: usize = 128;

/// Blocks that keep a card busy: two on each multiprocessor of an H100.
const BUSY: usize = 256;
/// Summed elements that are worth a block of their own.
const PART: usize = 1024;

/// Parts of the summed dimension that are summed apart and then added in order, where tiles of the result are too few for a
/// card: gradients of weights over all rows of a batch.
fn parts(op: &MatMul, result: DType) -> usize {
    let tiles = op.m.div_ceil(HALF_TILE) * op.n.div_ceil(HALF_TILE);
    if tiles >= TILES || op.bias.is_some() || result.is_half() {
        return 1;
    }
    (BUSY / tiles.max(1)).min(op.k / PART).clamp(1, 16)
}

/// Bytes of scratch of a product in PTX.
pub fn workspace(op: &MatMul, operands: DType, result: DType) -> usize {
    match parts(op, result) {
        parts if parts > 1 && operands.is_half() => 4 * parts * op.m * op.n,
        _ => 0,
    }
}

/// On matrix units: operands in half precision, sums in f32, which the result keeps or rounds once.
fn half(op: &MatMul, c: &Context) -> Result<Vec<Launch>> {
    let MatMul { a, b, bias, out, m, n, k, trans_a, trans_b } = *op;
    let parts = parts(op, c.desc(out.id).dtype);
    let tiles = m.div_ceil(HALF_TILE) * n.div_ceil(HALF_TILE);
    let tile = if tiles < TILES && parts == 1 { HALF_TILE / 2 } else { HALF_TILE };
    // 16 bytes at once where every row of both operands begins at a multiple of that; two numbers of the result.
    let contiguous = [if trans_a { m } else { k }, if trans_b { k } else { n }, c.first(a), c.first(b)];
    let vec =
        contiguous.iter().all(|x| x.is_multiple_of(8)) && [n, c.first(out.id)].iter().all(|x| x.is_multiple_of(2));
    let into = if parts > 1 { "set" } else { into(op, c) };
    let template = if c.caps.capability < AMPERE { "matmul_volta" } else { "matmul_half" };
    let variant = Variant::new(template)
        .name("dtype", c.half(a)?)
        .flag("trans_a", trans_a)
        .flag("trans_b", trans_b)
        .flag("bias", bias.is_some())
        .name("into", into)
        .flag("vec", vec)
        .int("tile", tile as u32);
    let part = k.div_ceil(parts).next_multiple_of(32);
    let parts = k.div_ceil(part).max(1);
    let params = params::MatmulHalf { m: size(m)?, n: size(n)?, k: size(k)?, part: size(part)? };
    let grid = c.fits([size(n.div_ceil(tile))?, size(m.div_ceil(tile))?, size(parts)?])?;
    if parts == 1 {
        return Ok(vec![c.launch(variant, &params, &[Some(a), Some(b), bias, Some(out.id)], grid)?]);
    }
    let x = c.scratch(0, parts * m * n)?;
    let buffers = [Some((c.slice)(a)), Some((c.slice)(b)), None, Some(x)];
    let mut launches = vec![c.launch_slices(variant, &params, &buffers, grid)?];
    launches.extend(column_sums(Columns { x, weight: None, rows: parts, n: m * n }, "f32", out, c)?);
    Ok(launches)
}

pub fn column_sum(op: &ColumnSum, c: &Context) -> Result<Vec<Launch>> {
    let n = c.len(op.out.id);
    let rows = c.len(op.x) / n.max(1);
    column_sums(Columns { x: (c.slice)(op.x), weight: None, rows, n }, c.element(op.x)?, op.out, c)
}
