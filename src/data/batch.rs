//! What one training step reads.

use super::permutation::TokenClass;
use super::special::is_functional;

/// Sentinel in [`Batch::target_positions`]: no target here.
pub const NO_TARGET: i32 = -1;

/// One step of pretraining data, batch-major; see [`super::permutation`] for the ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Sequences, B.
    pub batch_size: usize,
    /// Positions of a sequence, L.
    pub seq_len: usize,
    /// Targets of a sequence, T: `num_predict`, or L where their number is free.
    pub num_targets: usize,
    /// Token ids.
    pub input_ids: Vec<i32>, // [B, L]
    /// Segment ids: 0, 1, and 2 for `<cls>`.
    pub segment_ids: Vec<i32>, // [B, L]
    /// 1 at predicted positions, else 0.
    pub input_q: Vec<f32>, // [B, L]
    /// Query `i` sees key `j` when `query_rank[i] > key_rank[j]`.
    pub query_rank: Vec<i32>, // [B, L]
    /// See `query_rank`.
    pub key_rank: Vec<i32>, // [B, L]
    /// Predicted positions, ascending, then [`NO_TARGET`]; every position where their number is free.
    pub target_positions: Vec<i32>, // [B, T]
    /// The tokens at these positions, 0 where there is no target.
    pub targets: Vec<i32>, // [B, T]
    /// 1 for targets, 0 for padding and for positions that are not predicted.
    pub target_mask: Vec<f32>, // [B, T]
    /// 0 where the text runs forwards, 1 where it runs backwards.
    pub direction: Vec<i32>, // [B]
}

impl Batch {
    /// An empty batch with room for `batch_size` sequences.
    pub(crate) fn with_capacity(batch_size: usize, seq_len: usize, num_targets: usize) -> Self {
        let (tokens, targets) = (batch_size * seq_len, batch_size * num_targets);
        Self {
            batch_size: 0,
            seq_len,
            num_targets,
            input_ids: Vec::with_capacity(tokens),
            segment_ids: Vec::with_capacity(tokens),
            input_q: Vec::with_capacity(tokens),
            query_rank: Vec::with_capacity(tokens),
            key_rank: Vec::with_capacity(tokens),
            target_positions: Vec::with_capacity(targets),
            targets: Vec::with_capacity(targets),
            target_mask: Vec::with_capacity(targets),
            direction: Vec::with_capacity(batch_size),
        }
    }

    /// Appends one sequence, whose ranks `rank` fills from its classes.
    ///
    /// `num_predict` holds at least as many targets as the sequence has, or is `None`.
    pub(crate) fn push(
        &mut self,
        input: &[i32],   // [L]
        segments: &[u8], // [L]
        masked: &[bool], // [L]
        num_predict: Option<usize>,
        backward: bool,
        rank: impl FnOnce(&[TokenClass], &mut [i32], &mut [i32]),
    ) {
        let classes = classes(input, masked); // [L]
        let predicted = |i: usize| classes[i] == TokenClass::Target;
        self.batch_size += 1;
        self.input_ids.extend_from_slice(input);
        self.segment_ids.extend(segments.iter().map(|&s| i32::from(s)));
        self.input_q.extend((0..input.len()).map(|i| f32::from(u8::from(predicted(i)))));
        let start = self.query_rank.len();
        self.query_rank.resize(start + input.len(), 0);
        self.key_rank.resize(start + input.len(), 0);
        rank(&classes, &mut self.query_rank[start..], &mut self.key_rank[start..]);
        self.direction.push(i32::from(backward));
        if num_predict.is_none() {
            self.target_positions.extend(0..input.len() as i32);
            self.targets.extend_from_slice(input);
            self.target_mask.extend_from_slice(&self.input_q[start..]);
            return;
        }
        for position in (0..input.len()).filter(|&i| predicted(i)) {
            self.target_positions.push(position as i32);
            self.targets.push(input[position]);
        }
        self.target_mask.resize(self.targets.len(), 1.0);
        let full = self.batch_size * self.num_targets;
        self.target_positions.resize(full, NO_TARGET);
        self.targets.resize(full, 0);
        self.target_mask.resize(full, 0.0);
    }
}

/// What each position is to the permutation: functional tokens stay functional where they were chosen.
pub(crate) fn classes(input: &[i32], masked: &[bool]) -> Vec<TokenClass> {
    let class = |(&id, &masked): (&i32, &bool)| match (is_functional(id), masked) {
        (true, _) => TokenClass::Functional,
        (false, true) => TokenClass::Target,
        (false, false) => TokenClass::Plain,
    };
    input.iter().zip(masked).map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(num_predict: Option<usize>) -> Batch {
        let mut batch = Batch::with_capacity(2, 6, num_predict.unwrap_or(6));
        let masked = [true, false, true, true, false, true];
        for backward in [false, true] {
            let ids = [10, 11, 12, 4, 13, 3]; // 4 and 3 are <sep> and <cls>
            batch.push(&ids, &[0, 0, 0, 0, 1, 2], &masked, num_predict, backward, |classes, query, _| {
                assert_eq!(classes.iter().filter(|c| **c == TokenClass::Functional).count(), 2);
                query.fill(7);
            });
        }
        batch
    }

    #[test]
    fn targets_are_padded() {
        let batch = batch(Some(4));
        assert_eq!(batch.target_positions, [0, 2, -1, -1, 0, 2, -1, -1]);
        assert_eq!(batch.targets, [10, 12, 0, 0, 10, 12, 0, 0]);
        assert_eq!(batch.target_mask, [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(batch.input_q[..6], [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(batch.direction, [0, 1]);
        assert_eq!(batch.query_rank, [7; 12]);
        assert_eq!(batch.segment_ids[6..], [0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn targets_of_full_length() {
        let batch = batch(None);
        assert_eq!(batch.target_positions[6..], [0, 1, 2, 3, 4, 5]);
        assert_eq!(batch.targets, batch.input_ids);
        assert_eq!(batch.target_mask, batch.input_q);
    }
}
