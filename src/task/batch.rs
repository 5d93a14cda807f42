//! Features to the inputs of a step program.

use super::feature::{Feature, Padding, Target};
use super::{Answer, Task};
use crate::Result;
use crate::model::heads::{SummaryOptions, SummaryType};
use crate::train::session::Session;
use crate::train::step::Objective;

impl Task {
    /// Rows of a batch that one feature fills.
    pub fn rows(&self) -> usize {
        if let Answer::Choice(choices) = self.answer { choices } else { 1 }
    }
    /// What is learnt.
    pub fn objective(&self, summary: SummaryOptions) -> Objective {
        match &self.answer {
            Answer::Class(labels) => Objective::Classification { classes: labels.len(), summary },
            Answer::Number => Objective::Regression { summary },
            Answer::Choice(choices) => Objective::Choice { choices: *choices, summary },
            Answer::Span { answerable } => Objective::Span { answerable: *answerable, answer_bias: false },
            Answer::Tags(labels) => Objective::Tokens { classes: labels.len() },
        }
    }
    /// What is computed to predict.
    pub fn prediction(&self, summary: SummaryOptions) -> Objective {
        match self.answer {
            Answer::Span { answerable } => Objective::SpanPrediction { answerable, answer_bias: false },
            _ => self.objective(summary),
        }
    }
    /// The shortest length, of at most `max`, at which a feature of `longest` tokens gives what it gives at `max`:
    /// padding changes nothing unless pooling looks at it.
    pub fn length(&self, longest: usize, max: usize, summary: SummaryOptions) -> usize {
        const STEPS: [usize; 12] = [16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 768];
        let pooled = !matches!(self.answer, Answer::Span { .. } | Answer::Tags(_));
        if pooled && matches!(summary.kind, SummaryType::Mean | SummaryType::First) {
            return max;
        }
        let step = STEPS.into_iter().find(|&step| step >= longest).unwrap_or(longest.next_multiple_of(256));
        step.min(max).max(longest)
    }
}

/// Uploads features as one batch; rows beyond them are padding that weighs nothing. `rows` features fit the program.
/// Of texts longer than the program's length, the windows before the last are read here, for their memories.
///
/// # Errors
/// When the device fails.
pub fn upload(session: &mut Session, task: &Task, features: &[&Feature]) -> Result<()> {
    let (t, accumulate) = (&session.options().transformer, session.options().accumulate);
    let (length, micro) = (t.length, t.batch);
    let rows = micro * accumulate;
    let padding = task.padding();
    if t.memory > 0 {
        let longest = features.iter().map(|f| f.longest()).max().unwrap_or(0);
        session.reset_memory()?;
        for after in (1..longest.div_ceil(length)).rev() {
            upload_tokens(session, features, padding, (rows, length), after)?;
            session.remember()?;
        }
    }
    upload_tokens(session, features, padding, (rows, length), 0)?;
    let examples = rows / task.rows();
    let share = 1.0 / features.len().max(1) as f32;
    let known = |f: &Feature| if f.target == Target::None { 0.0 } else { share };
    let mut weights: Vec<f32> = features.iter().map(|f| known(f)).collect();
    weights.resize(examples, 0.0);
    match &task.answer {
        Answer::Class(_) | Answer::Choice(_) => {
            let class = |f: &&Feature| if let Target::Class(class) = f.target { class as i32 } else { 0 };
            let mut labels: Vec<i32> = features.iter().map(class).collect();
            labels.resize(examples, 0);
            session.input_i32("labels", &labels)?;
            session.input_f32("weights", &weights)
        }
        Answer::Number => {
            let value = |f: &&Feature| if let Target::Value(value) = f.target { value as f32 } else { 0.0 };
            let mut values: Vec<f32> = features.iter().map(value).collect();
            values.resize(examples, 0.0);
            session.input_f32("label_values", &values)?;
            session.input_f32("weights", &weights)
        }
        Answer::Tags(_) => upload_tags(session, features, padding, rows, length),
        Answer::Span { .. } => upload_spans(session, features, &weights, rows, length, micro),
    }
}

/// The tokens of a window of each sequence, which has `after` more windows behind it.
fn upload_tokens(
    session: &mut Session,
    features: &[&Feature],
    padding: Padding,
    (rows, length): (usize, usize),
    after: usize,
) -> Result<()> {
    let (mut ids, mut hidden, mut segments) = (vec![0; rows * length], vec![1; rows * length], vec![0; rows * length]);
    for (row, sequence) in features.iter().flat_map(|f| &f.sequences).enumerate() {
        let at = row * length..(row + 1) * length;
        let end = sequence.len().saturating_sub(after * length);
        let window = end.saturating_sub(length)..end;
        ids[at.clone()].copy_from_slice(&padding.pad(&sequence.ids[window.clone()], 0, length));
        hidden[at.clone()].copy_from_slice(&padding.pad(&vec![0; window.len()], 1, length));
        segments[at].copy_from_slice(&padding.pad(&sequence.segments[window], padding.segment(), length));
    }
    session.input_i32("input_ids", &ids)?;
    session.input_i32("padding", &hidden)?;
    session.input_i32("segment_ids", &segments)?;
    if session.options().transformer.memory == 0 {
        return Ok(());
    }
    let forgotten: Vec<f32> = hidden.iter().map(|&hidden| hidden as f32).collect();
    session.input_f32("forgotten", &forgotten)
}

/// Every tagged word of the batch weighs the same.
fn upload_tags(
    session: &mut Session,
    features: &[&Feature],
    padding: Padding,
    rows: usize,
    length: usize,
) -> Result<()> {
    let mut labels = vec![-1; rows * length];
    for (row, feature) in features.iter().enumerate() {
        if let Target::Tokens(tags) = &feature.target {
            labels[row * length..][..length].copy_from_slice(&padding.pad(tags, -1, length));
        }
    }
    let count = labels.iter().filter(|&&label| label >= 0).count().max(1) as f32;
    let weights: Vec<f32> = labels.iter().map(|&label| if label >= 0 { 1.0 / count } else { 0.0 }).collect();
    let labels: Vec<i32> = labels.into_iter().map(|label| label.max(0)).collect();
    session.input_i32("labels", &labels)?;
    session.input_f32("weights", &weights)
}

fn upload_spans(
    session: &mut Session,
    features: &[&Feature],
    weights: &[f32],
    rows: usize,
    length: usize,
    micro: usize,
) -> Result<()> {
    // Rows of padding may point at their first position.
    let mut barred: Vec<f32> = (0..rows * length).map(|i| if i % length == 0 { 0.0 } else { 1.0 }).collect();
    let (mut starts, mut ends, mut cls, mut impossible) =
        (vec![0; rows], vec![0; rows], vec![0; rows], vec![0.0; rows]);
    for (row, feature) in features.iter().enumerate() {
        barred[row * length..][..length].copy_from_slice(&feature.barred(length));
        cls[row] = feature.cls() as i32;
        if let Target::Span { start, end, impossible: none } = feature.target {
            (starts[row], ends[row]) = (start as i32, end as i32);
            impossible[row] = f32::from(u8::from(none));
        }
    }
    // Half of both cross entropies, and half of the answerability's.
    let halves: Vec<f32> = weights.iter().map(|w| w / 2.0).collect();
    session.input_f32("barred", &barred)?;
    session.input_i32("start_rows", &content_rows(&starts, length, micro))?;
    session.input_i32("cls_rows", &content_rows(&cls, length, micro))?;
    session.input_i32("start_positions", &starts)?;
    session.input_i32("end_positions", &ends)?;
    session.input_f32("is_impossible", &impossible)?;
    session.input_f32("weights", &halves)
}

/// Rows of the content stream of positions, one for each sequence; they count within a micro-batch.
pub fn content_rows(positions: &[i32], length: usize, micro: usize) -> Vec<i32> {
    positions.iter().enumerate().map(|(row, &at)| (row % micro * length) as i32 + at).collect()
}
