//! Philox4x32-7: the one definition of every dropout decision, on every backend.
//!
//! Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): a block of
//! four 32-bit words is a pure function of a 128-bit counter and a 64-bit key, so that forward, backward, recomputation
//! and other devices see the same bits without storing them. Seven rounds pass BigCrush.
//!
//! One block decides 8 elements of a row with 16 bits each: column `c` uses the bits of half `c % 2` (low half first) of
//! word `(c % 8) / 2`, and is kept iff these bits are `>= threshold`. The key is given per step, the counter is
//!
//! | element | word 0 | word 1 | word 2 | word 3 |
//! |---|---|---|---|---|
//! | column `c` of a row of states | `c / 8` | `i` | `g` | site |
//! | attention probability of a query row, key column `c` | `c / 8` | `i` | `g * heads + head` | site |
//!
//! where `site` tells the dropout places of a model apart, `g` is the number of the batch row in the whole batch, and `i`
//! that of the row within its batch row (of states: content rows first, then query rows; [`Place`]). So an element's fate
//! is the same however a batch is dealt out to ranks and micro-batches.

use crate::{Error, Result};

const ROUNDS: usize = 7;
const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Blocks computed side by side, one per vector lane.
const LANES: usize = 16;
/// Decisions per block.
pub const DECISIONS: usize = 8;

/// One block: four random words for a counter and a key.
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    rounds(counter.map(|word| [u64::from(word)]), key).map(|[word]| word as u32)
}

/// `N` independent blocks under one key; `words[w][lane]` is word `w` of the counter of block `lane`.
///
/// Words lie in 64-bit lanes, as the widening multiplication of vector units wants them; all leave with clear high
/// halves.
#[inline(always)]
fn rounds<const N: usize>(mut words: [[u64; N]; 4], mut key: [u32; 2]) -> [[u64; N]; 4] {
    const LOW: u64 = 0xFFFF_FFFF;
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = words;
        let [k0, k1] = key.map(u64::from);
        for lane in 0..N {
            // The high halves are clear already; the mask tells the compiler, who else takes a full 64-bit product.
            let first = MULTIPLIERS[0] * (c0[lane] & LOW);
            let second = MULTIPLIERS[1] * (c2[lane] & LOW);
            words[0][lane] = second >> 32 ^ c1[lane] ^ k0;
            words[1][lane] = second & LOW;
            words[2][lane] = first >> 32 ^ c3[lane] ^ k1;
            words[3][lane] = first & LOW;
        }
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    words
}

/// The dropout of one step: key and rate, the latter as a threshold on 16 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    key: [u32; 2],
    threshold: u32,
}

impl Keep {
    /// Dropout at `rate`, which is rounded to a multiple of 1/65536.
    ///
    /// # Errors
    /// When `rate` is not a number in `[0, 1)`, or rounds to 1.
    pub fn new(key: [u32; 2], rate: f64) -> Result<Self> {
        let threshold = (rate * 65536.0).round();
        if !(0.0..65536.0).contains(&threshold) || rate < 0.0 {
            return Err(Error::config(format!("a dropout rate must be at least 0 and below 1, but is {rate}")));
        }
        Ok(Self { key, threshold: threshold as u32 })
    }

    /// Elements whose 16 bits are below this are dropped.
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// The key of this step.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// What a kept element is multiplied with: `1 / (1 - threshold / 65536)`.
    pub fn scale(&self) -> f64 {
        1.0 / (1.0 - f64::from(self.threshold) / 65536.0)
    }

    /// Decisions of the columns of a row from `first` on, a multiple of [`DECISIONS`]: `out[c]` becomes `scale` where
    /// column `first + c` is kept and zero elsewhere. `row` holds words 1 to 3 of the counter.
    ///
    /// Branch-free and inlined, so that a caller under `pulp::Arch::dispatch` gets wide vectors.
    #[inline(always)]
    pub fn row<T: Copy + Default>(&self, row: [u32; 3], first: usize, scale: T, out: &mut [T]) {
        debug_assert!(first.is_multiple_of(DECISIONS), "a block of decisions cannot be cut");
        let (first, zero) = ((first / DECISIONS) as u32, T::default());
        for (group, out) in out.chunks_mut(LANES * DECISIONS).enumerate() {
            let word0: [u32; LANES] = std::array::from_fn(|lane| first.wrapping_add((group * LANES + lane) as u32));
            let [word1, word2, word3] = row.map(|word| [u64::from(word); LANES]);
            let counter = [word0.map(u64::from), word1, word2, word3];
            let words = rounds(counter, self.key);
            // In memory order: the 8 halves of block 0, low half of word 0 first, then those of block 1, ...
            let mut halves = [0; 2 * LANES];
            for lane in 0..LANES {
                halves[2 * lane] = (words[0][lane] | words[1][lane] << 32).to_le();
                halves[2 * lane + 1] = (words[2][lane] | words[3][lane] << 32).to_le();
            }
            let halves: [u16; LANES * DECISIONS] = bytemuck::cast(halves);
            for (out, &bits) in out.iter_mut().zip(&halves) {
                *out = if u32::from(u16::from_le(bits)) >= self.threshold { scale } else { zero };
            }
        }
    }
}

/// Where the rows of a tensor of states stand: `[B*lead; B*tail, width]`, for each of B batch rows `lead` rows in the
/// first part and `tail` rows in the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Rows of a batch row in the first part.
    pub lead: usize,
    /// Rows of a batch row in the second part.
    pub tail: usize,
    /// Rows of the first part, `B * lead`.
    pub split: usize,
}

impl Place {
    /// That of a tensor of `rows` rows; `None` where `batch` rows of `lead` and more do not make them up.
    pub fn new(rows: usize, batch: usize, lead: usize) -> Option<Self> {
        let split = batch.checked_mul(lead)?;
        let trailing = rows.checked_sub(split)?;
        let whole = if batch == 0 { rows == 0 } else { trailing.is_multiple_of(batch) };
        whole.then(|| Place { lead, tail: trailing / batch.max(1), split })
    }
    /// Batch row of row `r`, and its number within that.
    pub fn of(&self, r: usize) -> (usize, usize) {
        match r.checked_sub(self.split) {
            None => (r / self.lead, r % self.lead),
            Some(r) => (r / self.tail, self.lead + r % self.tail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_random123() {
        assert_eq!(block([0; 4], [0; 2]), [0x5f6f_b709, 0x0d89_3f64, 0x4f12_1f81, 0x4f73_0a48]);
        assert_eq!(block([u32::MAX; 4], [u32::MAX; 2]), [0x5207_ddc2, 0x4516_5e59, 0x4d8e_e751, 0x8c52_f662]);
        assert_eq!(
            block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0x4dfc_caba, 0x190a_87f0, 0xc473_62ba, 0xb6b5_242a]
        );
    }

    /// The definition of the module's head, element by element.
    fn decision(keep: &Keep, counter: [u32; 4], e: usize) -> f32 {
        let word = block(counter, keep.key())[e % 8 / 2];
        if word >> (16 * (e % 2)) & 0xFFFF >= keep.threshold() { keep.scale() as f32 } else { 0.0 }
    }

    #[test]
    fn rows_follow_the_definition() {
        let keep = Keep::new([7, 11], 0.3).unwrap();
        for n in [0, 1, 7, 8, 9, 127, 128, 129, 513] {
            for first in [0, 8, 4096] {
                let mut out = vec![f32::NAN; n];
                keep.row([5, 6, 9], first, keep.scale() as f32, &mut out);
                for (j, &got) in out.iter().enumerate() {
                    let c = first + j;
                    assert_eq!(got, decision(&keep, [c as u32 / 8, 5, 6, 9], c), "n {n}, column {c}");
                }
            }
        }
    }

    #[test]
    fn a_row_stands_where_it_would_in_any_batch() {
        let place = Place::new(3 * 4 + 3 * 2, 3, 4).unwrap();
        assert_eq!(place, Place { lead: 4, tail: 2, split: 12 });
        assert_eq!([0, 3, 4, 11].map(|r| place.of(r)), [(0, 0), (0, 3), (1, 0), (2, 3)]);
        assert_eq!([12, 13, 14, 17].map(|r| place.of(r)), [(0, 4), (0, 5), (1, 4), (2, 5)]);
        assert_eq!(Place::new(6, 3, 2).unwrap().of(5), (2, 1));
        assert_eq!(Place::new(0, 0, 2), Some(Place { lead: 2, tail: 0, split: 0 }));
        for (rows, batch, lead) in [(5, 3, 2), (13, 3, 4), (1, 0, 1), (1, 2, usize::MAX)] {
            assert_eq!(Place::new(rows, batch, lead), None, "{rows} rows, {batch} of {lead}");
        }
    }

    #[test]
    fn keeps_the_asked_share() {
        for rate in [0.0, 0.1, 0.5, 0.9] {
            let keep = Keep::new([1, 2], rate).unwrap();
            let mut out = vec![0.0; 1 << 16];
            keep.row([0, 0, 3], 0, 1.0, &mut out);
            let share = out.iter().sum::<f64>() / out.len() as f64;
            assert!((share - (1.0 - rate)).abs() < 0.01, "rate {rate} kept {share}");
        }
    }

    #[test]
    fn bad_rates_are_refused() {
        for rate in [-0.1, -1e-9, 1.0, 0.999_999, f64::NAN, f64::INFINITY] {
            assert!(Keep::new([0; 2], rate).is_err(), "{rate}");
        }
    }
}
