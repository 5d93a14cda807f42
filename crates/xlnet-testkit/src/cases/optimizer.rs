//! Global norm and Adam.

use xlnet::op::{Adam, SquareNorm};

use super::{SIZES, WRITES};
use crate::case::Case;

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for n in SIZES.into_iter().chain([128 * 768]) {
        for write in WRITES {
            cases.push(Case::new(format!("square_norm/{n} {write:?}"), move |s| {
                let (x, out) = (s.normal("x", [n]), s.target(write, "out", [1]));
                s.push(SquareNorm { x, out })
            }));
        }
        // clip, square of the norm: off, above, below, at zero gradient
        let norms = [(0.0, 9.0), (0.25, 9.0), (10.0, 9.0), (1.0, 0.0)];
        // A norm that is no finite number leaves everything as it was.
        for (clip, square_norm) in norms.into_iter().chain([(1.0, f64::NAN), (0.0, f64::INFINITY)]) {
            for decays in [false, true] {
                cases.push(Case::new(format!("adam/{n} clip {clip} norm {square_norm} decays {decays}"), move |s| {
                    let (param, grad) = (s.normal("param", [n]), s.normal("grad", [n]));
                    let (m, v) = (s.normal("m", [n]), s.uniform("v", [n], 0.0, 1.0));
                    let square_norm = s.floats("square_norm", [1], vec![square_norm]);
                    let (grad_scale, lr_scale, rescale) = if decays { (0.75, 0.5, 0.125) } else { (1.0, 1.0, 1.0) };
                    let hyper = vec![0.01, clip, 0.9, 0.999, 1e-6, 0.1, rescale];
                    let hyper = s.floats("hyper", [Adam::HYPER_LEN], hyper);
                    s.push(Adam { param, grad, m, v, square_norm, hyper, decays, grad_scale, lr_scale })
                }));
            }
        }
    }
    cases.push(Case::new("square_norm/NaN", |s| {
        let (x, out) = (s.floats("x", [3], vec![1.0, f64::NAN, 2.0]), s.target(xlnet::op::Write::Set, "out", [1]));
        s.push(SquareNorm { x, out })
    }));
    cases
}
