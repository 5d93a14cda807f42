//! Rows of the corpus and the segments A and B of one step.

use std::ops::Range;

use rand::Rng;

use super::row_layout::is_backward;
use super::token_file::Window;
use crate::Result;

/// One row of the batch: a contiguous part of the corpus, or such a part read backwards.
///
/// Positions of a row are 0 to its length in the order in which it reads; a boundary `p` is one where token `p` is of
/// another sentence than token `p - 1`, never 0.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// Its part of the corpus.
    pub span: Range<u64>,
    pub backward: bool,
}

/// A corpus of `tokens` tokens as `bsz` rows of equal length; a remainder at its end is dropped.
pub(crate) fn rows(tokens: u64, bsz: usize, num_core: usize, bi_data: bool) -> Vec<Row> {
    let streams = if bi_data { bsz / 2 } else { bsz };
    let length = tokens / streams as u64;
    (0..bsz)
        .map(|row| {
            let stream = if bi_data {
                let half = bsz / num_core / 2;
                row / (2 * half) * half + row % half
            } else {
                row
            } as u64;
            Row { span: stream * length..(stream + 1) * length, backward: is_backward(row, bsz, num_core, bi_data) }
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

impl Row {
    /// Tokens of the row.
    pub(crate) fn len(&self) -> usize {
        (self.span.end - self.span.start) as usize
    }

    /// Ids of positions `range`.
    pub(crate) fn ids(&self, window: &mut Window, range: Range<usize>, into: &mut Vec<i32>) -> Result<()> {
        let span = self.place(range);
        let ids = window.ids(span)?;
        if self.backward {
            into.extend(ids.rev());
        } else {
            into.extend(ids);
        }
        Ok(())
    }

    /// The part of the corpus that positions `range` are.
    fn place(&self, range: Range<usize>) -> Range<u64> {
        let (start, end) = (range.start as u64, range.end as u64);
        if self.backward {
            self.span.end - end..self.span.end - start
        } else {
            self.span.start + start..self.span.start + end
        }
    }

    /// The part of the corpus where boundaries at positions `range` are marked, and the way back: between two tokens,
    /// the mark is on the later one of the corpus.
    fn marks(&self, range: Range<usize>) -> (Range<u64>, impl Fn(u64) -> usize + use<>) {
        let Range { start, end } = self.place(range.start.max(1)..range.end.max(1));
        let (first, last, backward) = (self.span.start, self.span.end, self.backward);
        let position = move |mark| if backward { last - mark } else { mark - first } as usize;
        let shift = u64::from(backward);
        (start + shift..end + shift, position)
    }

    /// Boundaries within `range`, ascending.
    fn boundaries(&self, window: &mut Window, range: Range<usize>) -> Result<Vec<usize>> {
        let (marks, position) = self.marks(range);
        let found = window.boundaries(marks)?.map(position);
        Ok(if self.backward { found.rev().collect() } else { found.collect() })
    }

    /// The first boundary at `at` or later.
    fn boundary_from(&self, window: &mut Window, at: usize) -> Result<Option<usize>> {
        let (marks, position) = self.marks(at..self.len());
        let found = if self.backward { window.last_boundary(marks) } else { window.first_boundary(marks) };
        Ok(found?.map(position))
    }

    /// The last boundary at `at` or before, or 0.
    fn boundary_until(&self, window: &mut Window, at: usize) -> Result<usize> {
        let (marks, position) = self.marks(1..at + 1);
        let found = if self.backward { window.first_boundary(marks) } else { window.last_boundary(marks) };
        Ok(found?.map_or(0, position))
    }

    /// Cuts segments A and B of `total` tokens together, A at `begin`; `None` where the row is too short.
    ///
    /// Half of the time B is taken from anywhere in the row. Both grow to whole sentences, then lose tokens at their
    /// right ends. `near` and `far` are windows at A and at B.
    pub(crate) fn segment_pair(
        &self,
        near: &mut Window,
        far: &mut Window,
        begin: usize,
        total: usize,
        rng: &mut impl Rng,
    ) -> Result<Option<SegmentPair>> {
        let len = self.len();
        if begin + total >= len {
            return Ok(None);
        }
        let cuts = self.boundaries(near, begin + 1..begin + total)?;
        let end = self.boundary_from(near, begin + total)?.unwrap_or(len);
        let (a_end, mut b, is_next);
        if cuts.is_empty() || rng.random_bool(0.5) {
            is_next = false;
            a_end = if cuts.is_empty() { end } else { cuts[rng.random_range(0..cuts.len())] };
            let b_len = total.saturating_sub(a_end - begin).max(1);
            // B ends at len - 1 or before, so that its last token has a successor to predict.
            let start = rng.random_range(0..=len - 1 - b_len);
            let stop = self.boundary_from(far, start + b_len)?.unwrap_or(len - 1);
            b = self.boundary_until(far, start)?..stop;
        } else {
            is_next = true;
            a_end = cuts[rng.random_range(0..cuts.len())];
            b = a_end..end;
        }
        let mut a = begin..a_end;
        let (drop_a, drop_b) = excess(a.len(), b.len(), total);
        a.end -= drop_a;
        b.end -= drop_b;
        Ok((a.end < len && b.end < len).then_some(SegmentPair { a, b, is_next }))
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
    use super::super::token_file::TokenFile;
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

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
        let corpus = TokenFile::of(&(0..23).collect::<Vec<_>>(), &[2, 5, 7, 13, 19, 21]);
        let mut window = Window::new(&corpus);
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
        for (row, (ids, boundaries, backward)) in rows(23, 8, 2, true).iter().zip(expected) {
            let mut read = Vec::new();
            row.ids(&mut window, 0..5, &mut read).unwrap();
            assert_eq!(read, ids);
            assert_eq!(row.boundaries(&mut window, 0..5).unwrap(), boundaries);
            assert_eq!(row.backward, backward);
        }
        let forward = rows(23, 4, 2, false);
        assert_eq!(forward[3], Row { span: 15..20, backward: false });
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
            // The row lies in a longer corpus, from its 30th token on.
            let backward = case % 2 == 1;
            let mut corpus = vec![false; 30];
            corpus.extend(parity.iter());
            corpus.extend([false; 70]);
            if backward {
                corpus[30..30 + len].reverse();
            }
            let boundaries: Vec<usize> = (1..corpus.len()).filter(|&i| corpus[i] != corpus[i - 1]).collect();
            let file = TokenFile::of(&vec![9; corpus.len()], &boundaries);
            let row = Row { span: 30..30 + len as u64, backward };
            let (begin, total) = (rng.random_range(0..len), rng.random_range(1..20));
            let (mut near, mut far) = (Window::new(&file), Window::new(&file));
            let got =
                row.segment_pair(&mut near, &mut far, begin, total, &mut ChaCha8Rng::seed_from_u64(case)).unwrap();
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
        let corpus = TokenFile::of(&[9; 4000], &(1..800).map(|i| 5 * i).collect::<Vec<_>>());
        let (mut near, mut far) = (Window::new(&corpus), Window::new(&corpus));
        let row = Row { span: 0..4000, backward: false };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut draw = || row.segment_pair(&mut near, &mut far, 100, 61, &mut rng).unwrap().unwrap();
        let next = (0..4000).filter(|_| draw().is_next).count();
        assert!((1900..2100).contains(&next), "{next}"); // 3 standard deviations are 95
    }
}
