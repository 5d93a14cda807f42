//! Factorisation orders as two integers a position.
//!
//! Query `i` may attend to key `j` exactly when `query_rank[i] > key_rank[j]`. Within each half of a sequence a
//! position that is predicted or functional gets a rank from the order drawn; its key has that rank, its query the same
//! (predicted) or one more (functional, which so sees itself). A plain position's key ranks below everything of its
//! half and its query just above that: it sees and is seen as context. The second half's ranks lie above all of the
//! first half's.

use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a position is to the permutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenClass {
    /// Context, visible to all of its half and later.
    Plain,
    /// Predicted.
    Target,
    /// `<sep>` or `<cls>`: ordered like a target, but never predicted.
    Functional,
}

/// Whether the blocks of `perm_size` positions share their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockOrder {
    /// One order for all blocks of a half, as in the original.
    #[default]
    Shared,
    /// An order of its own for every block.
    Fresh,
}

/// Checks that blocks of `perm_size` positions tile both halves.
///
/// # Errors
/// When they do not; the sentence names the sizes that would.
pub fn check_perm_size(perm_size: usize, reuse_len: usize, seq_len: usize) -> Result<()> {
    let halves = [reuse_len, seq_len.saturating_sub(reuse_len)];
    if perm_size > 0 && halves.iter().all(|&h| h >= perm_size && h % perm_size == 0) {
        return Ok(());
    }
    Err(Error::config(format!(
        "perm_size {perm_size} must be a positive divisor of both parts of the sequence, reuse_len {} and the other \
         {} positions; {reuse_len} is usual",
        halves[0], halves[1]
    )))
}

/// Draws an order for each half of a sequence and writes the ranks.
///
/// `classes`, `query_rank` and `key_rank` are as long as the sequence; the first half has `reuse_len` positions, and
/// `perm_size` divides both halves ([`check_perm_size`]).
pub fn sample_permutation(
    classes: &[TokenClass], // [L]
    reuse_len: usize,
    perm_size: usize,
    order: BlockOrder,
    rng: &mut impl Rng,
    query_rank: &mut [i32], // [L]
    key_rank: &mut [i32],   // [L]
) {
    let mut sigma: Vec<usize> = (0..perm_size).collect();
    // Ranks of the first half are -1 ..= reuse_len, so those of the second start one above, its plain keys included.
    for (half, offset) in [(0..reuse_len, 0), (reuse_len..classes.len(), reuse_len as i32 + 1)] {
        for (position, index) in half.enumerate() {
            let in_block = position % perm_size;
            if position == 0 || (in_block == 0 && order == BlockOrder::Fresh) {
                sigma.shuffle(rng);
            }
            let rank = offset + (position - in_block + sigma[in_block]) as i32;
            (query_rank[index], key_rank[index]) = match classes[index] {
                TokenClass::Plain => (offset, offset - 1),
                TokenClass::Target => (rank, rank),
                TokenClass::Functional => (rank + 1, rank),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn random_classes(len: usize, rng: &mut impl Rng) -> Vec<TokenClass> {
        let kinds = [TokenClass::Plain, TokenClass::Target, TokenClass::Functional];
        (0..len).map(|_| kinds[rng.random_range(0..3)]).collect()
    }

    /// The mask of one half from its ranks, rule by rule; true = hidden.
    fn hidden_within(class: &[TokenClass], rank: &[usize], i: usize, j: usize) -> bool {
        use TokenClass::*;
        if class[j] == Plain {
            return false;
        }
        match class[i] {
            Plain => true,
            Target => rank[i] <= rank[j],
            Functional => rank[i] < rank[j],
        }
    }

    #[test]
    fn rank_pairs_equal_the_dense_mask() {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for case in 0..600u64 {
            let perm_size = [1, 2, 3, 4, 8][rng.random_range(0..5)];
            let first = perm_size * rng.random_range(1..5);
            let second = perm_size * rng.random_range(1..5);
            let len = first + second;
            let order = if rng.random() { BlockOrder::Shared } else { BlockOrder::Fresh };
            let class = random_classes(len, &mut rng);
            let (mut query, mut key) = (vec![0; len], vec![0; len]);
            let mut draw = ChaCha8Rng::seed_from_u64(case);
            sample_permutation(&class, first, perm_size, order, &mut draw, &mut query, &mut key);

            // The same draws, as one array of ranks per half.
            let mut same = ChaCha8Rng::seed_from_u64(case);
            let mut sigma: Vec<usize> = (0..perm_size).collect();
            let ranks = [first, second].map(|half| {
                let mut rank = Vec::new();
                for block in 0..half / perm_size {
                    if block == 0 || order == BlockOrder::Fresh {
                        sigma.shuffle(&mut same);
                    }
                    rank.extend(sigma.iter().map(|s| block * perm_size + s));
                }
                rank
            });
            for (i, query) in query.iter().enumerate() {
                for (j, key) in key.iter().enumerate() {
                    let hidden = match (i < first, j < first) {
                        (true, true) => hidden_within(&class[..first], &ranks[0], i, j),
                        (true, false) => true,
                        (false, true) => false,
                        (false, false) => hidden_within(&class[first..], &ranks[1], i - first, j - first),
                    };
                    assert_eq!(query <= key, hidden, "case {case}: {i} {j} {class:?}");
                }
            }
        }
    }

    /// With every position a target, keys show the order: a permutation of each block, the same one when shared.
    #[test]
    fn blocks_keep_their_places() {
        let mut rng = ChaCha8Rng::seed_from_u64(12);
        let class = vec![TokenClass::Target; 64];
        let (mut query, mut key) = (vec![0; 64], vec![0; 64]);
        let mut differ = 0;
        for order in [BlockOrder::Shared, BlockOrder::Fresh] {
            sample_permutation(&class, 32, 8, order, &mut rng, &mut query, &mut key);
            let within: Vec<Vec<i32>> =
                (0..4).map(|b| key[8 * b..8 * b + 8].iter().map(|k| k - 8 * b as i32).collect()).collect();
            for block in &within {
                let mut sorted = block.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..8).collect::<Vec<_>>());
            }
            differ += usize::from(within.iter().any(|b| b != &within[0]));
            assert_eq!(order == BlockOrder::Fresh, differ == 1);
        }
    }

    #[test]
    fn orders_are_uniform() {
        let mut rng = ChaCha8Rng::seed_from_u64(13);
        let mut counts = std::collections::BTreeMap::new();
        let (mut query, mut key) = ([0; 6], [0; 6]);
        for _ in 0..6000 {
            sample_permutation(&[TokenClass::Target; 6], 3, 3, BlockOrder::Shared, &mut rng, &mut query, &mut key);
            *counts.entry([key[0], key[1], key[2]]).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|c| (900..1100).contains(c)), "{counts:?}");
    }

    #[test]
    fn perm_size_must_tile() {
        assert!(check_perm_size(256, 256, 512).is_ok());
        assert!(check_perm_size(64, 256, 512).is_ok());
        for (perm_size, reuse, seq) in [(0, 4, 8), (3, 4, 8), (8, 4, 8), (4, 4, 10), (4, 8, 4 + 2)] {
            assert!(check_perm_size(perm_size, reuse, seq).unwrap_err().to_string().contains("perm_size"));
        }
    }
}
