//! Relative attention: sizes, masks, streams, groups, flags, dropout.

use xlnet::op::Write;
use xlnet::tensor::DType;

use crate::attention::{Attention, MaskKind};
use crate::case::Case;

/// All cases of the family.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for config in configurations() {
        let label = config.label();
        let forward = Case::new(format!("rel_attention/{label}"), move |s| {
            let op = config.forward(s);
            s.push(op)
        });
        cases.push(forward.wider(2.0, "scores reach 10, and the error of a score is one of the exponent"));
        let both = Case::new(format!("rel_attention_grad/{label}"), move |s| config.push_both(s));
        // Rows that see one key have no score gradient at all: what is compared is rounding about 0.
        let blind = config.same_length || config.mask == MaskKind::AllPadding;
        let single = config.memory == 0 && blind || config.memory + config.length == 1;
        let cancels = "score gradients of a row sum to 0, so those of biases are sums that cancel";
        cases.push(both.wider(if single { 32.0 } else { 8.0 }, cancels));
    }
    let tensor_cores = halves().into_iter().flat_map(|config| [DType::Bf16, DType::F16].map(|dtype| (config, dtype)));
    let others = other_heads().into_iter().map(|config| (config, DType::F16));
    for (config, dtype) in tensor_cores.chain(others) {
        let config = Attention { half: Some(dtype), ..config };
        let both = Case::new(format!("rel_attention_grad/{}", config.label()), move |s| config.push_both(s))
            .rounded(dtype, bound);
        cases.push(both.wider(32.0, "the same sums in f64 as those of the other cases"));
    }
    cases
}

/// Probabilities, results and score gradients are halves; sums for biases cancel.
fn bound(name: &str, unit: f64) -> f64 {
    match name {
        "out" | "query out" => 1.25 * unit,
        "lse" | "query lse" => 1e-5,
        "dw_bias" | "dr_bias" | "ds_bias" | "dseg_embed" => 10.0 * unit,
        _ => 4.0 * unit,
    }
}

/// Heads of 64 elements, for which tensor cores have kernels in half precision.
fn halves() -> Vec<Attention> {
    use MaskKind::{AllPadding, None, Padding, Ranks};
    let base = Attention::new(1, 2, 64, 70, 33);
    vec![
        Attention { batch: 2, groups: 2, padded: true, ..base.mask(Ranks).targets(11).rate(0.1) },
        Attention { content: false, targets: 70, ..base.mask(Ranks) },
        Attention { batch: 3, groups: 2, heads: 1, ..base.mask(Padding) },
        Attention { memory: 0, segments: false, length: 64, write: Write::Add, ..base.mask(None) },
        Attention { relative: false, padded: true, ..base.mask(AllPadding).rate(0.5).targets(3) },
        Attention { causal: true, length: 20, memory: 3, frozen: true, ..base },
    ]
}

/// Heads of other sizes in f16, for which not every backend has kernels.
pub fn f16_heads() -> Vec<Case> {
    let sizes = [(1, 1, 1, 3, 2), (2, 3, 5, 33, 17), (1, 2, 17, 59, 0), (2, 1, 32, 70, 31), (1, 1, 33, 33, 5)];
    let case = |(b, h, d, l, m)| {
        let base = Attention::new(b, h, d, l, m).mask(MaskKind::Ranks).targets(l.div_ceil(4)).rate(0.1);
        let config = Attention { half: Some(DType::F16), padded: l > 9, ..base };
        Case::new(format!("rel_attention_grad/{}", config.label()), move |s| config.push_both(s))
            .rounded(DType::F16, bound)
    };
    sizes.map(case).into()
}

/// Heads that tensor cores have no kernels for.
fn other_heads() -> Vec<Attention> {
    let base = Attention::new(2, 2, 17, 33, 5);
    vec![
        Attention { groups: 2, padded: true, ..base.mask(MaskKind::Ranks).targets(7).rate(0.1) },
        Attention { relative: false, ..base.mask(MaskKind::Padding) },
        Attention { write: Write::Add, ..Attention::new(1, 1, 128, 37, 31) },
    ]
}

fn configurations() -> Vec<Attention> {
    use MaskKind::{AllPadding, Bits, None, Padding, RandomBits, Ranks};
    let mut all = vec![];
    // Lengths and head sizes that fit no tile.
    for (b, h, d, l, m) in [
        (1, 1, 1, 1, 0),
        (2, 1, 3, 1, 1),
        (1, 2, 5, 3, 0),
        (2, 3, 16, 17, 5),
        (1, 1, 64, 31, 33),
        (3, 2, 8, 33, 0),
        (1, 2, 32, 59, 17),
        (1, 1, 128, 33, 31),
        (1, 1, 17, 97, 31),
        (1, 1, 64, 111, 97),
        (1, 1, 16, 257, 3),
    ] {
        let base = Attention::new(b, h, d, l, m);
        all.push(base);
        all.push(base.mask(Ranks).targets(l.div_ceil(3)));
        all.push(base.mask(Padding).rate(0.1));
    }
    let base = Attention::new(2, 2, 16, 33, 17);
    for mask in [None, Padding, AllPadding, Ranks, Bits, RandomBits] {
        for targets in [0, 1, 17] {
            for content in [true, false] {
                if content || targets > 0 {
                    all.push(Attention { content, padded: targets > 1, ..base.mask(mask).targets(targets) });
                }
            }
        }
        // Without memory, rows of the query stream may see nothing at all.
        let bare = Attention { memory: 0, padded: true, ..base.mask(mask).targets(9) };
        all.push(bare);
        all.push(bare.rate(0.5));
    }
    for rate in [0.1, 0.5] {
        all.push(base.mask(Ranks).targets(9).rate(rate));
        all.push(Attention { content: false, ..base.mask(Padding).targets(3).rate(rate) });
    }
    for (relative, segments) in [(true, false), (false, true), (false, false)] {
        let config = Attention { relative, segments, ..base.mask(Padding).targets(5) };
        all.push(config);
        all.push(Attention { memory: 0, content: false, targets: 1, ..config });
    }
    for groups in [2, 3] {
        all.push(Attention { batch: 3, groups, ..base.mask(Ranks).targets(7) });
    }
    for mask in [None, Padding, Ranks] {
        for same_length in [false, true] {
            all.push(Attention { causal: true, same_length, ..base.mask(mask) });
            all.push(Attention { causal: true, same_length, ..base.mask(mask).targets(5).rate(0.1) });
            all.push(Attention { causal: true, same_length, memory: 0, ..base.mask(mask).targets(5) });
        }
    }
    for (write, frozen) in [(Write::Add, false), (Write::Set, true)] {
        all.push(Attention { write, frozen, ..base.mask(Ranks).targets(5) });
        all.push(Attention { write, frozen, relative: false, ..base });
    }
    all.push(Attention { padded: true, ..base.mask(Ranks).targets(1) }); // no target at all
    // As in pretraining, with a tenth of the heads.
    all.push(Attention { groups: 2, ..Attention::new(2, 1, 64, 256, 192).mask(Ranks).targets(42).rate(0.1) });
    all
}
