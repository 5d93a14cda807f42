//! Rows of the corpus and the segments A and B of one step.

use std::ops::Range;

use rand::Rng;

use super::token_stream::TokenStream;

/// One row of the batch: a contiguous slice of the corpus, or such a slice read backwards.
pub(crate) struct Row<'a> {
    pub ids: &'a [i32],
    /// Ascending positions `0 < p < ids.len()` whose token is of another sentence than token `p - 1`.
    pub boundaries: Vec<usize>,
    pub backward: bool,
}

/// Whether row `row` of a batch reads its text backwards.
///
/// With `bi_data`, each of `num_core` equal slices of the `bsz` rows holds its forward rows first, then the same rows
/// backwards.
pub fn is_backward(row: usize, bsz: usize, num_core: usize, bi_data: bool) -> bool {
    let per_core = bsz / num_core;
    bi_data && row % per_core >= per_core / 2
}

/// The corpus as `bsz` rows of equal length; a remainder at its end is dropped. `reversed` holds the ids of `corpus`
/// in reverse order and is read for backward rows only.
pub(crate) fn rows<'a>(
    corpus: &'a TokenStream,
    reversed: &'a [i32],
    bsz: usize,
    num_core: usize,
    bi_data: bool,
) -> Vec<Row<'a>> {
    let streams = if bi_data { bsz / 2 } else { bsz };
    let length = corpus.ids.len() / streams;
    (0..bsz)
        .map(|row| {
            let backward = is_backward(row, bsz, num_core, bi_data);
            let stream = if bi_data {
                let half = bsz / num_core / 2;
                row / (2 * half) * half + row % half
            } else {
                row
            };
            let (start, end) = (stream * length, (stream + 1) * length);
            let inside = |b: usize| corpus.boundaries.partition_point(|&p| p < b);
            let boundaries = corpus.boundaries[inside(start + 1)..inside(end)].iter();
            if backward {
                let total = reversed.len();
                let ids = &reversed[total - end..total - start];
                Row { ids, boundaries: boundaries.rev().map(|b| end - b).collect(), backward }
            } else {
                Row { ids: &corpus.ids[start..end], boundaries: boundaries.map(|b| b - start).collect(), backward }
            }
        })
        .collect()
}

/// Segments A and B as ranges of one row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SegmentPair {
    pub a: Range<usize>,
    pub b: Range<usize>,
    /// Whether B follows A in the text.
    pub is_next: bool,
}

impl Row<'_> {
    /// Cuts segments A and B of `total` tokens together, A at `begin`; `None` where the row is too short.
    ///
    /// Half of the time B is taken from anywhere in the row. Both grow to whole sentences, then lose tokens at their
    /// right ends.
    pub(crate) fn segment_pair(&self, begin: usize, total: usize, rng: &mut impl Rng) -> Option<SegmentPair> {
        let len = self.ids.len();
        if begin + total >= len {
            return None;
        }
        let cuts = {
            let first = self.boundaries.partition_point(|&b| b <= begin);
            let last = self.boundaries.partition_point(|&b| b < begin + total);
            &self.boundaries[first..last.max(first)]
        };
        let end = self.boundary_from(begin + total).unwrap_or(len);
        let (a_end, mut b, is_next);
        if cuts.is_empty() || rng.random_bool(0.5) {
            is_next = false;
            a_end = if cuts.is_empty() { end } else { cuts[rng.random_range(0..cuts.len())] };
            let b_len = total.saturating_sub(a_end - begin).max(1);
            // B ends at len - 1 or before, so that its last token has a successor to predict.
            let start = rng.random_range(0..=len - 1 - b_len);
            let stop = self.boundary_from(start + b_len).unwrap_or(len - 1);
            let whole = self.boundaries.partition_point(|&p| p <= start);
            b = if whole == 0 { 0 } else { self.boundaries[whole - 1] }..stop;
        } else {
            is_next = true;
            a_end = cuts[rng.random_range(0..cuts.len())];
            b = a_end..end;
        }
        let mut a = begin..a_end;
        let (drop_a, drop_b) = excess(a.len(), b.len(), total);
        a.end -= drop_a;
        b.end -= drop_b;
        (a.end < len && b.end < len).then_some(SegmentPair { a, b, is_next })
    }

    /// The first boundary at `position` or later.
    fn boundary_from(&self, position: usize) -> Option<usize> {
        self.boundaries.get(self.boundaries.partition_point(|&b| b < position)).copied()
    }
}

/// How many tokens A and B lose when the longer one (B on a tie) loses one at a time until `total` remain.
fn excess(a: usize, b: usize, total: usize) -> (usize, usize) {
    let drop = (a + b).saturating_sub(total);
    let from_longer = drop.min(a.abs_diff(b));
    let rest = drop - from_longer;
    let (from_a, from_b) = if a > b { (from_longer, 0) } else { (0, from_longer) };
    (from_a + rest / 2, from_b + rest.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn corpus(len: usize, boundaries: &[usize]) -> TokenStream {
        TokenStream { ids: (0..len as i32).collect(), boundaries: boundaries.to_vec() }
    }

    #[test]
    fn excess_drops_from_the_longer() {
        for (a, b, total) in (0..14).flat_map(|a| (0..14).flat_map(move |b| (0..14).map(move |t| (a, b, t)))) {
            let (mut left, mut right) = (a, b);
            while left + right > total {
                if left > right { left -= 1 } else { right -= 1 }
            }
            assert_eq!(excess(a, b, total), (a - left, b - right), "{a} {b} {total}");
        }
    }

    /// 23 tokens, 8 rows on 2 cores: 4 streams of 5 tokens; core 0 has streams 0 and 1, core 1 streams 2 and 3.
    #[test]
    fn bidirectional_row_layout() {
        let corpus = corpus(23, &[2, 5, 7, 13, 19, 21]);
        let reversed: Vec<i32> = corpus.ids.iter().rev().copied().collect();
        let rows = rows(&corpus, &reversed, 8, 2, true);
        let expected: [(&[i32], &[usize], bool); 8] = [
            (&[0, 1, 2, 3, 4], &[2], false),
            (&[5, 6, 7, 8, 9], &[2], false),
            (&[4, 3, 2, 1, 0], &[3], true),
            (&[9, 8, 7, 6, 5], &[3], true),
            (&[10, 11, 12, 13, 14], &[3], false),
            (&[15, 16, 17, 18, 19], &[4], false),
            (&[14, 13, 12, 11, 10], &[2], true),
            (&[19, 18, 17, 16, 15], &[1], true),
        ];
        for (row, (ids, boundaries, backward)) in rows.iter().zip(expected) {
            assert_eq!((row.ids, &row.boundaries[..], row.backward), (ids, boundaries, backward));
        }
        let forward = super::rows(&corpus, &[], 4, 2, false);
        assert_eq!(forward[3].ids, [15, 16, 17, 18, 19]);
        assert!(forward.iter().all(|r| !r.backward));
    }

    /// The rules of the original, token by token on a parity array, as an independent statement of the same cut.
    fn literal(
        parity: &[bool],
        begin: usize,
        total: usize,
        mut draw: impl FnMut(Draw) -> usize,
    ) -> Option<SegmentPair> {
        let len = parity.len();
        if begin + total >= len {
            return None;
        }
        let (mut end, mut cuts) = (begin + 1, Vec::new());
        while end < len {
            if parity[end] != parity[end - 1] {
                if end - begin >= total {
                    break;
                }
                cuts.push(end);
            }
            end += 1;
        }
        let (mut a_end, mut b_begin, mut b_end, is_next);
        if cuts.is_empty() || draw(Draw::Coin) == 1 {
            is_next = false;
            a_end = if cuts.is_empty() { end } else { cuts[draw(Draw::Below(cuts.len()))] };
            let b_len = 1.max(total as isize - (a_end - begin) as isize) as usize;
            b_begin = draw(Draw::Through(len - 1 - b_len));
            b_end = b_begin + b_len;
            while b_begin > 0 && parity[b_begin - 1] == parity[b_begin] {
                b_begin -= 1;
            }
            while b_end < len - 1 && parity[b_end - 1] == parity[b_end] {
                b_end += 1;
            }
        } else {
            is_next = true;
            a_end = cuts[draw(Draw::Below(cuts.len()))];
            (b_begin, b_end) = (a_end, end);
        }
        while a_end - begin + b_end - b_begin > total {
            if a_end - begin > b_end - b_begin { a_end -= 1 } else { b_end -= 1 }
        }
        (a_end < len && b_end < len).then_some(SegmentPair { a: begin..a_end, b: b_begin..b_end, is_next })
    }

    enum Draw {
        Coin,
        Below(usize),
        Through(usize),
    }

    #[test]
    fn equals_the_token_by_token_rules() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (mut next, mut failed) = (0, 0);
        for case in 0..4000u64 {
            let len = rng.random_range(12..80);
            let mut parity = vec![true];
            let flip = [0.0, 0.05, 0.3, 1.0][rng.random_range(0..4)];
            (1..len).for_each(|i| parity.push(parity[i - 1] ^ rng.random_bool(flip)));
            let boundaries: Vec<usize> = (1..len).filter(|&i| parity[i] != parity[i - 1]).collect();
            let ids = vec![9; len];
            let row = Row { ids: &ids, boundaries, backward: false };
            let (begin, total) = (rng.random_range(0..len), rng.random_range(1..20));
            let got = row.segment_pair(begin, total, &mut ChaCha8Rng::seed_from_u64(case));
            let mut same = ChaCha8Rng::seed_from_u64(case);
            let expected = literal(&parity, begin, total, |d| match d {
                Draw::Coin => usize::from(same.random_bool(0.5)),
                Draw::Below(n) => same.random_range(0..n),
                Draw::Through(n) => same.random_range(0..=n),
            });
            assert_eq!(got, expected);
            match got {
                Some(pair) => {
                    assert_eq!(pair.a.len() + pair.b.len(), total);
                    next += usize::from(pair.is_next);
                }
                None => failed += 1,
            }
        }
        assert!(next > 300 && failed > 100, "{next} {failed}");
    }

    #[test]
    fn half_of_the_pairs_are_not_next() {
        let corpus = corpus(4000, &(1..800).map(|i| 5 * i).collect::<Vec<_>>());
        let row = Row { ids: &corpus.ids, boundaries: corpus.boundaries.clone(), backward: false };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let next = (0..4000).filter(|_| row.segment_pair(100, 61, &mut rng).unwrap().is_next).count();
        assert!((1900..2100).contains(&next), "{next}"); // 3 standard deviations are 95
    }
}
