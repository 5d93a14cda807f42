//! Matrix products and column sums.

use xlnet::op::{ColumnSum, MatMul, Target, Write};

use super::WRITES;
use crate::case::Case;

/// m, n, k; the last two as in a model: a projection, and logits of one chunk.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (1, 257, 3),
    (257, 1, 33),
    (3, 17, 31),
    (17, 3, 59),
    (31, 33, 1),
    (33, 31, 97),
    (59, 97, 111),
    (97, 59, 257),
    (111, 111, 17),
    (257, 33, 31),
    (64, 768, 768),
    (8, 4000, 768),
];

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (m, n, k) in SHAPES {
        for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
            for (write, with_bias) in [(Write::Set, false), (Write::Set, true), (Write::Add, false)] {
                let transposed = format!("{}{}", if trans_a { 't' } else { 'n' }, if trans_b { 't' } else { 'n' });
                let name = format!("matmul/{m}x{n}x{k} {transposed} bias {with_bias} {write:?}");
                cases.push(Case::new(name, move |s| {
                    let a = s.normal("a", if trans_a { [k, m] } else { [m, k] });
                    let b = s.normal("b", if trans_b { [n, k] } else { [k, n] });
                    let bias = with_bias.then(|| s.normal("bias", [n]));
                    let out = s.target(write, "out", [m, n]);
                    s.push(MatMul { a, b, bias, out, m, n, k, trans_a, trans_b })
                }));
            }
        }
    }
    cases.push(Case::new("matmul/views at odd offsets", |s| {
        let (a, b) = (s.normal("a", [200]), s.normal("b", [300]));
        let (a, b) = (s.builder.view(a, 3, [5, 17])?, s.builder.view(b, 7, [17, 11])?);
        let whole = s.normal("out", [100]);
        let out = Target::set(s.builder.view(whole, 1, [5, 11])?);
        s.push(MatMul { a, b, bias: None, out, m: 5, n: 11, k: 17, trans_a: false, trans_b: false })
    }));
    for (r, n) in [(1, 1), (1, 257), (257, 1), (3, 17), (31, 33), (59, 97), (111, 31), (256, 768)] {
        for write in WRITES {
            let case = Case::new(format!("column_sum/{r}x{n} {write:?}"), move |s| {
                let (x, out) = (s.normal("x", [r, n]), s.target(write, "out", [n]));
                s.push(ColumnSum { x, out })
            });
            let alone = "one sum whose terms cancel is all there is to compare with";
            cases.push(if n == 1 { case.wider(25.0, alone) } else { case });
        }
    }
    cases
}
