//! Fill, copies and gathers.

use super::{Context, Launch};
use crate::Result;
use crate::kernel::params::{self, size};
use crate::kernel::Variant;
use crate::op::{CopyBlocks, Fill, GatherRows, Write};

/// Invocations of a work group where each owns one element.
const WG: u32 = 256;

pub fn fill(op: &Fill, c: &Context) -> Result<Vec<Launch>> {
    let n = c.len(op.out);
    let variant = Variant::new("fill").name("dtype", c.dtype(op.out)?).int("wg", WG);
    let params = params::Fill { n: size(n)?, value: op.value };
    Ok(vec![c.launch(variant, &params, &[Some(op.out)], c.flat(n, WG as usize)?)?])
}

pub fn copy_blocks(op: &CopyBlocks, c: &Context) -> Result<Vec<Launch>> {
    let add = op.dst.write == Write::Add;
    let variant = Variant::new("copy_blocks").name("dtype", c.dtype(op.src)?).flag("add", add).int("wg", WG);
    let grid = c.flat(op.blocks * op.length, WG as usize)?;
    Ok(vec![c.launch(variant, &params::CopyBlocks::new(op)?, &[Some(op.src), Some(op.dst.id)], grid)?])
}

pub fn gather_rows(op: &GatherRows, c: &Context) -> Result<Vec<Launch>> {
    let (n, d) = (c.len(op.out), c.last(op.table));
    let variant = Variant::new("gather_rows").name("dtype", c.dtype(op.table)?).int("wg", WG);
    let params = params::GatherRows { n: size(n)?, d: size(d)?, rows: size(c.desc(op.table).shape.rows())? };
    Ok(vec![c.launch(variant, &params, &[Some(op.table), Some(op.ids), Some(op.out)], c.flat(n, WG as usize)?)?])
}
