//! Fill, copies, gathers and weighted sums of rows.

use xlnet::op::{
    CopyBlocks, Fill, GatherRows, GatherRowsGrad, MixRows, MixRowsGrad, Target, WeightedRows, WeightedRowsGrad, Write,
};

use xlnet::tensor::DType;

use super::{SIZES, WRITES};
use crate::case::Case;

/// Rows and row lengths, the last as in a model.
const ROWS: [(usize, usize); 9] =
    [(1, 1), (3, 17), (17, 3), (31, 33), (33, 31), (59, 8), (2, 257), (97, 111), (128, 768)];

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for n in SIZES {
        cases.push(Case::new(format!("fill/{n}"), move |s| {
            let out = s.output("out", [n]);
            s.push(Fill { out, value: -1.5 })
        }));
    }
    copies(&mut cases);
    gathers(&mut cases);
    for (r, d) in ROWS {
        mixes(&mut cases, r, d);
    }
    for (b, l, d) in [(1, 1, 1), (3, 17, 5), (2, 33, 31), (5, 3, 257), (2, 64, 768)] {
        weighted(&mut cases, b, l, d);
    }
    cases
}

fn copies(cases: &mut Vec<Case>) {
    // blocks, length, (offset, stride) of the source, (offset, stride) of the destination
    let layouts = [
        (1, 1, (0, 0), (0, 0)),
        (1, 257, (3, 0), (5, 0)),
        (17, 31, (0, 31), (0, 59)),  // first part of a concatenation
        (17, 28, (0, 28), (31, 59)), // second part
        (33, 3, (2, 7), (1, 3)),     // a slice, packed
        (59, 1, (0, 97), (0, 1)),    // a column
        (9, 33, (4, 0), (0, 33)),    // one block repeated
        (5, 8, (0, 3), (0, 8)),      // overlapping sources
        (8, 8192, (0, 8192), (16384, 24576)),
    ];
    for (blocks, length, (src_offset, src_stride), (dst_offset, dst_stride)) in layouts {
        for write in WRITES {
            let name = format!("copy_blocks/{blocks}x{length} from {src_offset}+{src_stride} {write:?}");
            cases.push(Case::new(name, move |s| {
                let src = s.normal("src", [src_offset + (blocks - 1) * src_stride + length + 2]);
                let len = dst_offset + (blocks - 1) * dst_stride + length + 3;
                let dst = s.target(write, "dst", [len]);
                if write == Write::Set {
                    let old = s.normals(len); // outside the blocks it must survive
                    s.fill(dst.id, old);
                }
                s.push(CopyBlocks { src, src_offset, src_stride, dst, dst_offset, dst_stride, blocks, length })
            }));
        }
        for dtype in [DType::Bf16, DType::F16] {
            let name = format!("copy_blocks/{dtype} {blocks}x{length} from {src_offset}+{src_stride}");
            cases.push(Case::new(name, move |s| {
                let src = s.half("src", [src_offset + (blocks - 1) * src_stride + length + 2], dtype);
                let len = dst_offset + (blocks - 1) * dst_stride + length + 3;
                let dst = s.output_in("dst", [len], dtype);
                let old = s.normals(len).into_iter().map(f64::round).collect(); // outside the blocks it must survive
                s.fill(dst, old);
                let dst = Target::set(dst);
                s.push(CopyBlocks { src, src_offset, src_stride, dst, dst_offset, dst_stride, blocks, length })
            }));
        }
    }
}

fn gathers(cases: &mut Vec<Case>) {
    for (v, d, r) in [(1, 1, 1), (3, 17, 31), (33, 3, 97), (111, 59, 17), (257, 33, 257), (5, 1, 111), (500, 768, 128)]
    {
        cases.push(Case::new(format!("gather_rows/{v}x{d} {r} rows"), move |s| {
            let arange = (0..v * d).map(|e| e as f64).collect();
            let table = s.floats("table", [v, d], arange);
            let (ids, out) = (s.indices("ids", [r], -1, v as i32), s.output("out", [r, d]));
            s.push(GatherRows { table, ids, out })
        }));
        for write in WRITES {
            // Few distinct ids in one half of the cases: many rows fall together.
            for most in [v, 2] {
                if most > v {
                    continue;
                }
                let name = format!("gather_rows_grad/{v}x{d} {r} rows on {most} {write:?}");
                cases.push(Case::new(name, move |s| {
                    let (dout, ids) = (s.normal("dout", [r, d]), s.indices("ids", [r], -1, most as i32));
                    let dtable = s.target(write, "dtable", [v, d]);
                    s.push(GatherRowsGrad { dout, ids, dtable })
                }));
            }
        }
    }
}

fn mixes(cases: &mut Vec<Case>, r: usize, d: usize) {
    for weighted in [false, true] {
        cases.push(Case::new(format!("mix_rows/{r}x{d} weights {weighted}"), move |s| {
            let row = s.normal("row", [d]);
            let x = weighted.then(|| s.normal("x", [r, d]));
            let weight = weighted.then(|| s.uniform("weight", [r], 0.0, 1.0));
            let out = s.output("out", [r, d]);
            s.push(MixRows { x, row, weight, out })
        }));
        for write in WRITES {
            // Which gradients are asked for: of the row, of x.
            for (row, x) in [(true, false), (true, true), (false, true)] {
                if x && !weighted {
                    continue;
                }
                let name = format!("mix_rows_grad/{r}x{d} weights {weighted} row {row} x {x} {write:?}");
                cases.push(Case::new(name, move |s| {
                    let dout = s.normal("dout", [r, d]);
                    let weight = weighted.then(|| s.flags("weight", [r], 0.3));
                    let drow = row.then(|| s.target(write, "drow", [d]));
                    let dx = x.then(|| s.target(write, "dx", [r, d]));
                    s.push(MixRowsGrad { dout, weight, drow, dx })
                }));
            }
        }
    }
}

fn weighted(cases: &mut Vec<Case>, b: usize, l: usize, d: usize) {
    cases.push(Case::new(format!("weighted_rows/{b}x{l}x{d}"), move |s| {
        let (x, weight) = (s.normal("x", [b, l, d]), s.uniform("weight", [b, l], -1.0, 1.0));
        let out = s.output("out", [b, d]);
        s.push(WeightedRows { x, weight, out })
    }));
    for write in WRITES {
        for constant in [false, true] {
            let name = format!("weighted_rows_grad/{b}x{l}x{d} constant weights {constant} {write:?}");
            cases.push(Case::new(name, move |s| {
                let (x, weight) = (s.normal("x", [b, l, d]), s.uniform("weight", [b, l], -1.0, 1.0));
                let dout = s.normal("dout", [b, d]);
                let dx = s.target(write, "dx", [b, l, d]);
                let dweight = (!constant).then(|| s.output("dweight", [b, l]));
                s.push(WeightedRowsGrad { x, weight, dout, dx, dweight })
            }));
        }
    }
}
