//! Choice of the tokens to predict: short spans with room between them.

use rand::Rng;
use serde::{Deserialize, Serialize};

/// What the length of a span counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NgramUnit {
    /// Pieces, as the released models were trained; spans begin at a word but may end within one.
    #[default]
    Pieces,
    /// Whole words, as was meant.
    Words,
}

/// How spans are drawn.
#[derive(Clone, Copy, Debug)]
pub struct NgramMask<'a> {
    /// For every id, whether its piece can start a span; `[vocab_size]`.
    pub start_pieces: &'a [bool],
    /// What a span's length counts.
    pub unit: NgramUnit,
    /// A span of n comes with `n * alpha / beta` tokens of context around it.
    pub alpha: u32,
    /// See `alpha`, which must not be smaller.
    pub beta: u32,
}

/// Lengths 1 to 5 with weights 1/n, as integers over 60.
const WEIGHTS: [u32; 5] = [60, 30, 20, 15, 12];

/// A length from 1 to 5 with probability proportional to 1/n.
fn draw_length(rng: &mut impl Rng) -> usize {
    let mut at = rng.random_range(0..WEIGHTS.iter().sum::<u32>());
    for (i, &weight) in WEIGHTS.iter().enumerate() {
        if at < weight {
            return i + 1;
        }
        at -= weight;
    }
    WEIGHTS.len()
}

impl NgramMask<'_> {
    /// Marks in `mask` the tokens of `segment` to predict.
    ///
    /// With a `goal` exactly so many are marked, the last ones anywhere; it must not exceed the segment. A `backward`
    /// segment is treated in its natural reading order.
    pub fn sample(
        &self,
        segment: &[i32],     // [n]
        mask: &mut [bool],   // [n], all false
        goal: Option<usize>, // at most n
        backward: bool,
        rng: &mut impl Rng,
    ) {
        let n = segment.len();
        let natural = |i: usize| if backward { n - 1 - i } else { i };
        // Ids outside the table cannot start a span; the builder has refused them before.
        let starts =
            |i: usize| usize::try_from(segment[natural(i)]).is_ok_and(|id| self.start_pieces.get(id) == Some(&true));
        let goal_or_all = goal.unwrap_or(usize::MAX);
        let (mut at, mut marked) = (0usize, 0);
        while at < n && marked < goal_or_all {
            let gram = draw_length(rng).min(goal_or_all - marked);
            let context = gram as u64 * u64::from(self.alpha) / u64::from(self.beta.max(1));
            let before = rng.random_range(0..context.max(1));
            let Some(begin) = (at.saturating_add(before as usize)..n).find(|&i| starts(i)) else { break };
            let Some(end) = self.span_end(begin, gram, n, goal_or_all - marked, starts) else { break };
            (begin..end).for_each(|i| mask[natural(i)] = true);
            marked += end - begin;
            at = end.saturating_add((context - before) as usize);
        }
        if let Some(missing) = goal.and_then(|goal| goal.checked_sub(marked)) {
            top_up(mask, missing, rng);
        }
    }

    /// End of the span of `gram` units that begins at `begin`, or `None` when it would reach the end of the segment.
    fn span_end(
        &self,
        begin: usize,
        gram: usize,
        n: usize,
        room: usize,
        starts: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self.unit {
            NgramUnit::Pieces => Some(begin + gram).filter(|&end| end < n),
            NgramUnit::Words => {
                let (mut end, mut words) = (None, 0);
                for word_end in (begin + 1..n).filter(|&i| starts(i)) {
                    // Whole words only: a span that overshoots the goal is cut at the last word that fits.
                    if word_end - begin > room {
                        return end;
                    }
                    (end, words) = (Some(word_end), words + 1);
                    if words == gram {
                        return end;
                    }
                }
                None
            }
        }
    }
}

/// Marks `count` of the unmarked tokens, each equally likely.
fn top_up(mask: &mut [bool], count: usize, rng: &mut impl Rng) {
    if count == 0 {
        return;
    }
    let mut free: Vec<usize> = (0..mask.len()).filter(|&i| !mask[i]).collect();
    for _ in 0..count.min(free.len()) {
        mask[free.swap_remove(rng.random_range(0..free.len()))] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Runs of true as ranges.
    fn spans(mask: &[bool]) -> Vec<(usize, usize)> {
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m) {
            match spans.last_mut() {
                Some(last) if last.1 == i => last.1 = i + 1,
                _ => spans.push((i, i + 1)),
            }
        }
        spans
    }

    fn every(start_pieces: &[bool], unit: NgramUnit) -> NgramMask<'_> {
        NgramMask { start_pieces, unit, alpha: 6, beta: 1 }
    }

    #[test]
    fn span_lengths_follow_one_over_n() {
        let sampler = every(&[true], NgramUnit::Pieces);
        let segment = vec![0; 400_000];
        let mut mask = vec![false; segment.len()];
        sampler.sample(&segment, &mut mask, None, false, &mut ChaCha8Rng::seed_from_u64(5));
        let spans = spans(&mask);
        let harmonic: f64 = (1..=5).map(|n| 1.0 / n as f64).sum();
        for n in 1..=5 {
            let share = spans.iter().filter(|(b, e)| e - b == n).count() as f64 / spans.len() as f64;
            let expected = 1.0 / n as f64 / harmonic;
            assert!((share - expected).abs() < 0.01, "{n}: {share} {expected}");
        }
        // n of every 7 n tokens when every piece starts a word: 1/7.
        let share = mask.iter().filter(|m| **m).count() as f64 / mask.len() as f64;
        assert!((share - 1.0 / 7.0).abs() < 0.002, "{share}");
        // A context of 6 n tokens of which at least one lies behind the span: spans never touch.
        assert!(spans.windows(2).all(|w| w[1].0 > w[0].1));
    }

    /// The rules without a goal, piece by piece.
    fn literal(starts: &[bool], segment: &[i32], unit: NgramUnit, rng: &mut ChaCha8Rng) -> Vec<bool> {
        let starts = |i: usize| starts[segment[i] as usize];
        let (n, mut at) = (segment.len(), 0);
        let mut mask = vec![false; n];
        while at < n {
            let gram = draw_length(rng);
            let context = gram * 7 / 2;
            let left = rng.random_range(0..context as u64) as usize;
            let mut begin = at + left;
            while begin < n && !starts(begin) {
                begin += 1;
            }
            if begin >= n {
                break;
            }
            let (mut end, mut count) = (begin + 1, 1);
            while end < n {
                if unit == NgramUnit::Pieces || starts(end) {
                    count += 1;
                    if count > gram {
                        break;
                    }
                }
                end += 1;
            }
            if end >= n {
                break;
            }
            mask[begin..end].fill(true);
            at = end + context - left;
        }
        mask
    }

    #[test]
    fn equals_the_piece_by_piece_rules() {
        let mut rng = ChaCha8Rng::seed_from_u64(15);
        let starts: Vec<bool> = (0..50).map(|i| i % 3 == 0).collect();
        for case in 0..1000 {
            let n = rng.random_range(1..200);
            let segment: Vec<i32> = (0..n).map(|_| rng.random_range(0..50)).collect();
            let unit = [NgramUnit::Pieces, NgramUnit::Words][case as usize % 2];
            let sampler = NgramMask { start_pieces: &starts, unit, alpha: 7, beta: 2 };
            let mut mask = vec![false; n];
            sampler.sample(&segment, &mut mask, None, false, &mut ChaCha8Rng::seed_from_u64(case));
            assert_eq!(mask, literal(&starts, &segment, unit, &mut ChaCha8Rng::seed_from_u64(case)));
            // A backward row is the same choice on the same text, seen from its other end.
            let reversed: Vec<i32> = segment.iter().rev().copied().collect();
            let mut backward = vec![false; n];
            sampler.sample(&reversed, &mut backward, None, true, &mut ChaCha8Rng::seed_from_u64(case));
            backward.reverse();
            assert_eq!(mask, backward);
        }
    }

    #[test]
    fn goals_are_met_exactly() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let starts: Vec<bool> = (0..50).map(|i| i % 3 == 0).collect();
        for unit in [NgramUnit::Pieces, NgramUnit::Words] {
            for _ in 0..500 {
                let n = rng.random_range(1..120);
                let goal = rng.random_range(0..=n);
                let segment: Vec<i32> = (0..n).map(|_| rng.random_range(0..50)).collect();
                let mut mask = vec![false; n];
                every(&starts, unit).sample(&segment, &mut mask, Some(goal), rng.random(), &mut rng);
                assert_eq!(mask.iter().filter(|m| **m).count(), goal);
            }
        }
    }

    #[test]
    fn spans_begin_at_words_in_reading_order() {
        let starts = [true, false]; // id 0 starts a word, id 1 does not
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for backward in [false, true] {
            let segment: Vec<i32> = (0..5000).map(|_| i32::from(rng.random_bool(0.6))).collect();
            let mut mask = vec![false; segment.len()];
            every(&starts, NgramUnit::Pieces).sample(&segment, &mut mask, None, backward, &mut rng);
            let spans = spans(&mask);
            assert!(spans.len() > 100);
            for (begin, end) in spans {
                assert!(end - begin <= 5);
                assert_eq!(segment[if backward { end - 1 } else { begin }], 0);
            }
        }
    }

    #[test]
    fn words_are_masked_whole() {
        let starts = [true, false];
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let segment: Vec<i32> = (0..20_000).map(|_| i32::from(rng.random_bool(0.6))).collect();
        let mut mask = vec![false; segment.len()];
        every(&starts, NgramUnit::Words).sample(&segment, &mut mask, None, false, &mut rng);
        let spans = spans(&mask);
        for &(begin, end) in &spans {
            assert_eq!((segment[begin], segment[end]), (0, 0));
            assert!(segment[begin..end].iter().filter(|id| **id == 0).count() <= 5);
        }
        assert!(spans.iter().any(|(b, e)| e - b > 5)); // longer than any span of pieces
    }

    /// No piece starts a word: only the top-up marks, equally often everywhere.
    #[test]
    fn top_up_is_uniform() {
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let mut counts = [0; 10];
        for _ in 0..4000 {
            let mut mask = [false; 10];
            every(&[false], NgramUnit::Pieces).sample(&[0; 10], &mut mask, Some(3), false, &mut rng);
            (0..10).filter(|&i| mask[i]).for_each(|i| counts[i] += 1);
        }
        assert!(counts.iter().all(|c| (1110..1290).contains(c)), "{counts:?}"); // 1200, 3 standard deviations are 87
    }

    #[test]
    fn odd_settings_do_not_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(10);
        for (alpha, beta) in [(0, 0), (1, 5), (u32::MAX, 1), (1, 1)] {
            let mut mask = [false; 30];
            let sampler = NgramMask { start_pieces: &[true], unit: NgramUnit::Pieces, alpha, beta };
            sampler.sample(&[0; 30], &mut mask, Some(30), false, &mut rng);
            assert!(mask.iter().all(|m| *m));
        }
    }
}
