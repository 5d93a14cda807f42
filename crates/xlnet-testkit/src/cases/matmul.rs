//! Matrix products and column sums.

use xlnet::op::{Cast, ColumnSum, MatMul, Target, Write};
use xlnet::tensor::{DType, Role};

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
    cases.extend(half());
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
            for dtype in [DType::Bf16, DType::F16] {
                cases.push(Case::new(format!("column_sum/{dtype} {r}x{n} {write:?}"), move |s| {
                    let (x, out) = (s.sixteenths("x", [r, n], dtype), s.target(write, "out", [n]));
                    s.push(ColumnSum { x, out })
                }));
            }
        }
    }
    cases
}

/// m, n, k of products in half precision: no multiple of anything, and multiples of 8 that fill tiles and do not.
const HALF_SHAPES: [(usize, usize, usize); 8] = [
    (1, 1, 1),
    (3, 17, 31),
    (59, 97, 111),
    (8, 8, 8),
    (24, 136, 40),
    (136, 72, 200),
    (64, 128, 96),
    (1280, 1168, 40), // enough tiles for big ones
];

/// Products of operands in half precision, and the rounding to it.
fn half() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in [DType::Bf16, DType::F16] {
        for (m, n, k) in HALF_SHAPES {
            for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
                for (write, with_bias) in [(Write::Set, true), (Write::Add, false)] {
                    let big = m > 1000;
                    // The interpreter takes seconds for the big ones: bf16 forward and its gradients.
                    if big && (dtype == DType::F16 || trans_a && trans_b || write == Write::Add) {
                        continue;
                    }
                    let transposed = format!("{}{}", if trans_a { 't' } else { 'n' }, if trans_b { 't' } else { 'n' });
                    let name = format!("matmul/{dtype} {m}x{n}x{k} {transposed} bias {with_bias} {write:?}");
                    cases.push(Case::new(name, move |s| {
                        let a = s.half("a", if trans_a { [k, m] } else { [m, k] }, dtype);
                        let b = s.half("b", if trans_b { [n, k] } else { [k, n] }, dtype);
                        let bias = with_bias.then(|| s.normal("bias", [n]));
                        let out = s.target(write, "out", [m, n]);
                        s.push(MatMul { a, b, bias, out, m, n, k, trans_a, trans_b })
                    }));
                }
            }
        }
        for (m, n, k) in HALF_SHAPES {
            for (trans_a, trans_b, with_bias) in [(false, false, true), (false, true, false), (true, false, true)] {
                if m > 1000 && (dtype == DType::F16 || trans_a || !trans_b) {
                    continue;
                }
                let transposed = format!("{}{}", if trans_a { 't' } else { 'n' }, if trans_b { 't' } else { 'n' });
                let name = format!("matmul/{dtype} {m}x{n}x{k} {transposed} bias {with_bias} rounded");
                let case = Case::new(name, move |s| {
                    // Sums are exact, so that rounding them has one right answer.
                    let a = s.sixteenths("a", if trans_a { [k, m] } else { [m, k] }, dtype);
                    let b = s.sixteenths("b", if trans_b { [n, k] } else { [k, n] }, dtype);
                    let bias = with_bias.then(|| s.sixteenths("bias", [n], dtype));
                    let out = Target::set(s.output_in("out", [m, n], dtype));
                    s.push(MatMul { a, b, bias, out, m, n, k, trans_a, trans_b })
                });
                cases.push(case);
            }
        }
        // A gradient of a weight: so few tiles that k is cut in parts, the last of them shorter.
        for (m, n, k) in [(72, 136, 2216), (33, 17, 3090)] {
            for (trans_a, trans_b, write) in [(true, false, Write::Add), (false, true, Write::Set)] {
                let transposed = format!("{}{}", if trans_a { 't' } else { 'n' }, if trans_b { 't' } else { 'n' });
                cases.push(Case::new(
                    format!("matmul/{dtype} {m}x{n}x{k} {transposed} in parts {write:?}"),
                    move |s| {
                        let a = s.half("a", if trans_a { [k, m] } else { [m, k] }, dtype);
                        let b = s.half("b", if trans_b { [n, k] } else { [k, n] }, dtype);
                        let out = s.target(write, "out", [m, n]);
                        s.push(MatMul { a, b, bias: None, out, m, n, k, trans_a, trans_b })
                    },
                ));
            }
        }
        for n in super::SIZES.into_iter().chain([4096]) {
            cases.push(Case::new(format!("cast/{dtype} {n}"), move |s| {
                let mut values = s.normals(n);
                // A tie, an overflow of f16, a number below its smallest, zero with a sign.
                let odd = [1.0 + 2f64.powi(-9), 1.0 + 3.0 * 2f64.powi(-12), 7e4, 1e-9, -0.0];
                values.iter_mut().zip(odd).for_each(|(value, odd)| *value = odd);
                let src = s.floats("src", [n], values);
                let out = s.builder.tensor("out", [n], dtype, Role::Output);
                s.keep(out);
                s.push(Cast { src, out })
            }));
        }
        cases.push(Case::new(format!("cast/{dtype} views at odd offsets"), move |s| {
            let src = s.normal("src", [100]);
            let out = s.builder.tensor("out", [101], dtype, Role::Output);
            s.keep(out);
            let (src, out) = (s.builder.view(src, 3, [90])?, s.builder.view(out, 5, [90])?);
            s.push(Cast { src, out })
        }));
    }
    cases
}
