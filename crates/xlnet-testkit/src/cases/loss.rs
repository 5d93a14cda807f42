//! Softmax and losses.

use xlnet::op::{ElementLoss, ElementLossKind, Softmax, SoftmaxCrossEntropy, SoftmaxGrad};

use super::{SIZES, WRITES};
use crate::case::Case;
use crate::setup::Setup;
use xlnet::tensor::TensorId;

/// Rows and classes, the last as in a model.
const ROWS: [(usize, usize); 10] =
    [(1, 1), (3, 2), (17, 3), (2, 17), (31, 33), (5, 59), (3, 97), (7, 111), (2, 257), (3, 32000)];

/// Both losses of single numbers.
pub const ELEMENT_LOSSES: [ElementLossKind; 2] = [ElementLossKind::SquaredError, ElementLossKind::SigmoidCrossEntropy];

/// Barred columns: a third of them, and the whole first row.
fn hidden(s: &mut Setup, r: usize, c: usize) -> TensorId {
    let id = s.flags("hidden", [r, c], 0.3);
    let mut values = s.floats_of(id);
    values[..c].fill(1.0);
    s.fill(id, values);
    id
}

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (r, c) in ROWS {
        for barred in [false, true] {
            for (log, in_place) in [(false, false), (true, false), (false, true), (true, true)] {
                let name = format!("softmax/{r}x{c} log {log} barred {barred} in place {in_place}");
                cases.push(Case::new(name, move |s| {
                    let x = s.normal("x", [r, c]);
                    let hidden = barred.then(|| hidden(s, r, c));
                    let out = if in_place { x } else { s.output("out", [r, c]) };
                    s.push(Softmax { x, hidden, out, log })
                }));
            }
            for write in WRITES {
                cases.push(Case::new(format!("softmax_grad/{r}x{c} barred {barred} {write:?}"), move |s| {
                    let (y, dy) = (s.uniform("y", [r, c], 0.0, 2.0 / c as f64), s.normal("dy", [r, c]));
                    let hidden = barred.then(|| hidden(s, r, c));
                    let dx = s.target(write, "dx", [r, c]);
                    s.push(SoftmaxGrad { y, dy, hidden, dx })
                }));
                for (in_place, all) in [(false, true), (true, true), (false, false)] {
                    let name = format!(
                        "softmax_cross_entropy/{r}x{c} barred {barred} in place {in_place} all results {all} {write:?}"
                    );
                    cases.push(Case::new(name, move |s| {
                        let (logits, labels) = (s.normal("logits", [r, c]), s.indices("labels", [r], 0, c as i32));
                        let hidden = barred.then(|| hidden(s, r, c));
                        let weights = s.flags("weights", [r], 0.7);
                        let loss = s.target(write, "loss", [1]);
                        let row_loss = all.then(|| s.output("row_loss", [r]));
                        let dlogits = all.then(|| if in_place { logits } else { s.output("dlogits", [r, c]) });
                        s.push(SoftmaxCrossEntropy { logits, hidden, labels, weights, loss, row_loss, dlogits })
                    }));
                }
            }
        }
    }
    cases.push(Case::new("softmax/large logits and a row of NaN", |s| {
        let mut values: Vec<f64> = s.normals(3 * 17).iter().map(|x| x * 1e4).collect();
        values[20] = f64::NAN;
        let (x, out) = (s.floats("x", [3, 17], values), s.output("out", [3, 17]));
        s.push(Softmax { x, hidden: None, out, log: false })
    }));
    for r in SIZES {
        for kind in ELEMENT_LOSSES {
            for write in WRITES {
                for all in [true, false] {
                    cases.push(Case::new(format!("element_loss/{r} {kind:?} all results {all} {write:?}"), move |s| {
                        let values = s.normals(r).iter().map(|x| x * 10.0).collect();
                        let x = s.floats("x", [r], values);
                        let (labels, weights) =
                            (s.uniform("labels", [r], 0.0, 1.0), s.uniform("weights", [r], 0.0, 1.0));
                        let loss = s.target(write, "loss", [1]);
                        let row_loss = all.then(|| s.output("row_loss", [r]));
                        let dx = all.then(|| s.output("dx", [r]));
                        s.push(ElementLoss { kind, x, labels, weights, loss, row_loss, dx })
                    }));
                }
            }
        }
    }
    cases
}
