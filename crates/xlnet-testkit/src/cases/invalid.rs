//! Index tensors with a value out of range: an error on every device, never a panic or a read past the end.

use xlnet::op::{GatherRows, GatherRowsGrad, SoftmaxCrossEntropy, Target};

use crate::attention::{Attention, MaskKind};
use crate::case::Case;

/// Cases that a device must refuse.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("gather_rows/id past the table", |s| {
            let (table, ids) = (s.normal("table", [3, 2]), s.ints("ids", [2], vec![0, 3]));
            let out = s.output("out", [2, 2]);
            s.push(GatherRows { table, ids, out })
        }),
        Case::new("gather_rows_grad/id past the table", |s| {
            let (dout, ids) = (s.normal("dout", [2, 2]), s.ints("ids", [2], vec![i32::MAX, 0]));
            let dtable = Target::set(s.output("dtable", [3, 2]));
            s.push(GatherRowsGrad { dout, ids, dtable })
        }),
    ];
    for label in [-1, 5] {
        cases.push(Case::new(format!("softmax_cross_entropy/label {label} of 5"), move |s| {
            let (logits, labels) = (s.normal("logits", [2, 5]), s.ints("labels", [2], vec![0, label]));
            let weights = s.normal("weights", [2]);
            let loss = Target::set(s.output("loss", [1]));
            s.push(SoftmaxCrossEntropy { logits, hidden: None, labels, weights, loss, row_loss: None, dlogits: None })
        }));
    }
    for position in [-2, 7] {
        cases.push(Case::new(format!("rel_attention/query position {position} of 7"), move |s| {
            let mut op = Attention::new(1, 1, 4, 7, 3).targets(2).mask(MaskKind::Ranks).forward(s);
            let positions = s.ints("positions", [1, 2], vec![0, position]);
            op.query.as_mut().expect("there are targets").positions = positions;
            s.push(op)
        }));
    }
    for group in [-1, 2] {
        cases.push(Case::new(format!("rel_attention/group {group} of 2"), move |s| {
            let mut op = Attention { groups: 2, ..Attention::new(2, 1, 4, 7, 3) }.forward(s);
            let groups = s.ints("groups", [2], vec![0, group]);
            op.relative.as_mut().expect("there are positions").group = Some(groups);
            s.push(op)
        }));
    }
    cases
}
