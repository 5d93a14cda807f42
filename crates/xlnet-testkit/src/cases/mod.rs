//! Op cases as data, one file per family.

pub mod elementwise;
pub mod invalid;
pub mod layer_norm;
pub mod loss;
pub mod matmul;
pub mod movement;
pub mod optimizer;
pub mod rel_attention;

use crate::case::Case;

/// Sizes that fit no vector, tile or work group: each op is tried on all of them.
pub const SIZES: [usize; 9] = [1, 3, 17, 31, 33, 59, 97, 111, 257];

/// All cases.
pub fn all() -> Vec<Case> {
    let families = [
        movement::cases(),
        elementwise::cases(),
        matmul::cases(),
        layer_norm::cases(),
        loss::cases(),
        optimizer::cases(),
        rel_attention::cases(),
    ];
    families.into_iter().flatten().collect()
}

/// Both ways of writing.
pub(crate) const WRITES: [xlnet::op::Write; 2] = [xlnet::op::Write::Set, xlnet::op::Write::Add];
