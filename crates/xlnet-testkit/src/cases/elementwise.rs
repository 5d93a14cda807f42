//! Activations, dropout, position encoding.

use xlnet::op::{Activation, ActivationGrad, ActivationKind, Dropout, PositionEncoding};
use xlnet::tensor::DType;

use super::SIZES;
use crate::case::Case;

/// Every activation.
pub const KINDS: [ActivationKind; 4] =
    [ActivationKind::GeluTanh, ActivationKind::GeluErf, ActivationKind::Relu, ActivationKind::Tanh];

/// Rows and row lengths, the last as in a model.
fn shapes() -> impl Iterator<Item = [usize; 2]> {
    SIZES.into_iter().map(|d| [9, d]).chain([[16, 3072]])
}

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for shape @ [r, d] in shapes() {
        for rate in [0.1, 0.5] {
            for in_place in [false, true] {
                cases.push(Case::new(format!("dropout/{r}x{d} rate {rate} in place {in_place}"), move |s| {
                    let x = s.normal("x", shape);
                    let out = if in_place { x } else { s.output("out", shape) };
                    let dropout = s.dropout(rate, r).expect("the rate is not 0");
                    s.push(Dropout { x, out, dropout })
                }));
            }
        }
        for kind in KINDS {
            for (rate, in_place) in [(0.0, false), (0.0, true), (0.1, false), (0.5, true)] {
                activations(&mut cases, shape, kind, rate, in_place);
            }
        }
    }
    for kind in KINDS {
        cases.push(Case::new(format!("activation/{kind:?} far from zero"), move |s| {
            let far = [0.0, -0.0, 1e-30, 1e-8, 0.5, 3.0, 5.5, 9.0, 13.0, 20.0, 88.0, 1e3, 1e6];
            let x = s.floats("x", [26], far.iter().flat_map(|x| [*x, -*x]).collect());
            let out = s.output("out", [26]);
            s.push(Activation { x, out, kind, dropout: None })
        }));
        cases.push(Case::new(format!("activation_grad/{kind:?} far from zero"), move |s| {
            let far = [1e-30, 1e-8, 0.5, 3.0, 5.5, 9.0, 13.0, 20.0, 88.0, 1e3, 1e6];
            let x = s.floats("x", [22], far.iter().flat_map(|x| [*x, -*x]).collect());
            let (dout, dx) = (s.normal("dout", [22]), s.output("dx", [22]));
            s.push(ActivationGrad { x, dout, dx, kind, dropout: None })
        }));
    }
    for dtype in [DType::Bf16, DType::F16] {
        for shape in [[9, 1], [9, 59], [9, 257], [4, 1024]] {
            for (kind, rate, in_place) in
                [(KINDS[0], 0.1, true), (KINDS[1], 0.5, false), (KINDS[2], 0.0, true), (KINDS[3], 0.0, false)]
            {
                halves(&mut cases, shape, dtype, kind, (rate, in_place));
            }
        }
    }
    positions(&mut cases);
    cases
}

/// Results are rounded once.
fn halves(cases: &mut Vec<Case>, shape: [usize; 2], dtype: DType, kind: ActivationKind, (rate, in_place): (f32, bool)) {
    let once = |_: &str, unit: f64| 1.01 * unit;
    let [r, d] = shape;
    let name = format!("{dtype} {r}x{d} {kind:?} rate {rate} in place {in_place}");
    let forward = Case::new(format!("activation/{name}"), move |s| {
        let stored = s.stored(dtype);
        let x = s.sixteenths("x", shape, stored);
        let out = if in_place { x } else { s.output_in("out", shape, stored) };
        let dropout = s.dropout(rate, r);
        s.push(Activation { x, out, kind, dropout })
    });
    let backward = Case::new(format!("activation_grad/{name}"), move |s| {
        let stored = s.stored(dtype);
        let (x, dout) = (s.sixteenths("x", shape, stored), s.sixteenths("dout", shape, stored));
        let dx = if in_place { dout } else { s.output_in("dx", shape, stored) };
        let dropout = s.dropout(rate, r);
        s.push(ActivationGrad { x, dout, dx, kind, dropout })
    });
    cases.extend([forward, backward].map(|case| case.rounded(dtype, once)));
}

fn activations(cases: &mut Vec<Case>, shape: [usize; 2], kind: ActivationKind, rate: f32, in_place: bool) {
    let [r, d] = shape;
    let name = format!("{r}x{d} {kind:?} rate {rate} in place {in_place}");
    cases.push(Case::new(format!("activation/{name}"), move |s| {
        let x = s.normal("x", shape);
        let out = if in_place { x } else { s.output("out", shape) };
        let dropout = s.dropout(rate, r);
        s.push(Activation { x, out, kind, dropout })
    }));
    cases.push(Case::new(format!("activation_grad/{name}"), move |s| {
        let (x, dout) = (s.normal("x", shape), s.normal("dout", shape));
        let dx = if in_place { dout } else { s.output("dx", shape) };
        let dropout = s.dropout(rate, r);
        s.push(ActivationGrad { x, dout, dx, kind, dropout })
    }));
}

fn positions(cases: &mut Vec<Case>) {
    // groups, rows, d, keys, clamp
    let tables = [
        (1, 1, 2, 1, None),
        (1, 34, 6, 17, None),
        (2, 97, 32, 59, Some(31)),
        (3, 33, 10, 31, None),
        (2, 111, 64, 97, Some(1)),
        (2, 256, 768, 192, None),
    ];
    for (g, p, d, keys, clamp_len) in tables {
        for directed in [false, true] {
            let name = format!("position_encoding/{g}x{p}x{d} keys {keys} clamp {clamp_len:?} directed {directed}");
            let case = Case::new(name, move |s| {
                let direction = directed.then(|| s.indices("direction", [g], 0, 2));
                let out = s.output("out", [g, p, d]);
                s.push(PositionEncoding { direction, out, keys, clamp_len })
            });
            cases.push(case);
        }
    }
}
