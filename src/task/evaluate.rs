//! A model's answers to features, and their scores.

use std::collections::BTreeMap;

use super::batch::{content_rows, upload};
use super::cache::Dataset;
use super::example::{Examples, Label};
use super::feature::{Feature, Target};
use super::metrics::{self, Scores, argmax};
use super::span::decode::{Answered, DecodeOptions, WindowScores, decode, top};
use super::span::{chinese, english};
use super::{Answer, Source, Task};
use crate::backend::Device;
use crate::config::XlnetConfig;
use crate::model::heads::SummaryOptions;
use crate::model::hugging_face::ModelWeights;
use crate::model::{AttentionType, MaskKind, TransformerOptions};
use crate::tensor::DType;
use crate::train::load::{LoadOptions, load_into};
use crate::train::session::Session;
use crate::train::step::StepOptions;
use crate::{Error, Result};

/// How answers to spans are found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SpanSearch {
    /// Starts that are tried.
    pub start_n_top: usize,
    /// Ends that are tried for each.
    pub end_n_top: usize,
    /// Answers kept for each question.
    pub n_best_size: usize,
    /// Pieces of an answer at most.
    pub max_answer_length: usize,
}

/// What a model needs besides weights to answer.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The task.
    pub task: Task,
    /// Sizes.
    pub model: XlnetConfig,
    /// Pooling.
    pub summary: SummaryOptions,
    /// Largest relative distance.
    pub clamp_len: Option<usize>,
    /// Epsilon of layer norms.
    pub layer_norm_eps: f32,
    /// Direction of attention.
    pub attention: AttentionType,
    /// Tokens of a sequence at most.
    pub max_seq_length: usize,
    /// Tokens of earlier windows that are remembered; 0 where a text is one window.
    pub mem_len: usize,
    /// Features of a batch.
    pub batch: usize,
    /// For spans.
    pub search: SpanSearch,
    /// Where it runs.
    pub device: Device,
}

/// What a model says about a feature.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Logits of classes or choices; one number for a regression.
    Logits(Vec<f32>),
    /// The best starts and ends of a window.
    Window(WindowScores),
    /// Logits of every token, `[tokens, tags]`, padding left out.
    Tokens(Vec<Vec<f32>>),
}

impl Setup {
    /// The program that answers batches of `length` tokens with `weights`.
    ///
    /// # Errors
    /// When sizes do not fit together, the device is missing, or weights do not fit.
    pub fn session(&self, batch: usize, length: usize, weights: &ModelWeights) -> Result<Session> {
        let mut session = Session::new(&self.model, self.options(batch, length), self.device, 0)?;
        let (program, exec) = session.parts();
        load_into(exec, program, weights, &LoadOptions::default())?;
        Ok(session)
    }
    /// Another such program, which uses the weights of `other`.
    ///
    /// # Errors
    /// When there is too little memory, or the device fails.
    pub fn session_beside(&self, other: &mut Session, batch: usize, length: usize) -> Result<Session> {
        other.beside(&self.model, self.options(batch, length), self.device)
    }
    fn options(&self, batch: usize, length: usize) -> StepOptions {
        let transformer = TransformerOptions {
            batch: batch * self.task.rows(),
            length,
            attention: self.attention,
            clamp_len: self.clamp_len,
            mask: MaskKind::Padding,
            memory: self.mem_len,
            mem_len: self.mem_len,
            forget_padding: true,
            layer_norm_eps: self.layer_norm_eps,
            ..TransformerOptions::default()
        };
        let objective = self.task.prediction(self.summary);
        StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer: None }
    }

    /// Tokens of a window that features of at most `longest` tokens are read in. The distance to what is remembered, zeros
    /// before any text too, must not depend on padding, so memories need the full length.
    pub(super) fn length(&self, longest: usize) -> usize {
        if self.mem_len > 0 {
            return self.max_seq_length;
        }
        self.task.length(longest, self.max_seq_length, self.summary)
    }

    /// Indices of features by the tokens of a window and the number of windows that they need: those that run together.
    pub(super) fn by_shape<'a>(
        &self,
        features: impl Iterator<Item = &'a Feature>,
    ) -> BTreeMap<(usize, usize), Vec<usize>> {
        let mut by_shape: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (i, feature) in features.enumerate() {
            let longest = feature.longest();
            let length = self.length(longest);
            by_shape.entry((length, longest.div_ceil(length))).or_default().push(i);
        }
        by_shape
    }

    /// Answers all features, those of like length together. `observe` is told how many are done.
    ///
    /// # Errors
    /// When the device fails, or weights do not fit.
    pub fn answer(
        &self,
        weights: &ModelWeights,
        features: &[Feature],
        observe: &mut dyn FnMut(usize),
    ) -> Result<Vec<Output>> {
        let by_shape = self.by_shape(features.iter());
        let mut outputs: Vec<Option<Output>> = vec![None; features.len()];
        let mut first: Option<Session> = None; // has the weights that the others use
        let mut done = 0;
        for ((length, _), indices) in by_shape {
            let batch = self.batch.min(indices.len());
            let mut beside;
            let session = match &mut first {
                None => first.insert(self.session(batch, length, weights)?),
                Some(first) => {
                    beside = self.session_beside(first, batch, length)?;
                    &mut beside
                }
            };
            for some in indices.chunks(batch) {
                let batch: Vec<&Feature> = some.iter().map(|&i| &features[i]).collect();
                for (&i, output) in some.iter().zip(self.answer_batch(session, &batch)?) {
                    outputs[i] = Some(output);
                }
                done += some.len();
                observe(done);
            }
        }
        let missing = || Error::plan("a feature was not answered");
        outputs.into_iter().map(|output| output.ok_or_else(missing)).collect()
    }

    /// Answers one batch with a session of [`Self::session`]; it may hold fewer features than the program's rows.
    ///
    /// # Errors
    /// When the device fails.
    pub fn answer_batch(&self, session: &mut Session, features: &[&Feature]) -> Result<Vec<Output>> {
        upload(session, &self.task, features)?;
        session.evaluate()?;
        let length = session.options().transformer.length;
        let outputs = session.program().outputs.clone();
        match &self.task.answer {
            Answer::Class(_) | Answer::Number | Answer::Choice(_) => {
                let logits = session.exec().download_f32(outputs[0])?;
                let width = match &self.task.answer {
                    Answer::Class(labels) => labels.len(),
                    Answer::Choice(choices) => *choices,
                    _ => 1,
                };
                Ok(logits.chunks(width).take(features.len()).map(|row| Output::Logits(row.to_vec())).collect())
            }
            Answer::Tags(labels) => {
                let (logits, width) = (session.exec().download_f32(outputs[0])?, labels.len());
                let padding = self.task.padding();
                let row = |(row, feature): (usize, &&Feature)| {
                    let first = row * length + padding.offset(feature.longest(), length);
                    let tokens = logits[first * width..].chunks(width).take(feature.longest());
                    Output::Tokens(tokens.map(<[f32]>::to_vec).collect())
                };
                Ok(features.iter().enumerate().map(row).collect())
            }
            Answer::Span { answerable } => self.answer_spans(session, features, *answerable, length),
        }
    }

    fn answer_spans(
        &self,
        session: &mut Session,
        features: &[&Feature],
        answerable: bool,
        length: usize,
    ) -> Result<Vec<Output>> {
        let outputs = session.program().outputs.clone();
        let rows = session.options().transformer.batch;
        let starts = session.exec().download_f32(outputs[0])?; // [B, L]
        let none = if answerable { session.exec().download_f32(outputs[1])? } else { vec![0.0; rows] }; // [B]
        let mut all: Vec<WindowScores> = (features.iter().enumerate())
            .map(|(row, _)| WindowScores {
                starts: top(&starts[row * length..][..length], self.search.start_n_top),
                ends: vec![],
                no_answer: none[row],
            })
            .collect();
        for k in 0..self.search.start_n_top.min(length) {
            let mut positions: Vec<i32> = all.iter().map(|scores| scores.starts[k].0 as i32).collect();
            positions.resize(rows, 0);
            session.input_i32("start_rows", &content_rows(&positions, length, rows))?;
            session.exec().run_phase("end")?;
            let ends = session.exec().download_f32(outputs[2])?; // [B, L]
            for (row, scores) in all.iter_mut().enumerate() {
                scores.ends.push(top(&ends[row * length..][..length], self.search.end_n_top));
            }
        }
        Ok(all.into_iter().map(Output::Window).collect())
    }

    /// Answers to questions from the outputs of their windows.
    ///
    /// # Errors
    /// When examples are no questions.
    pub fn decode(&self, dataset: &Dataset, outputs: &[Output]) -> Result<Vec<Answered>> {
        let Examples::Questions(questions) = &dataset.examples else {
            return Err(Error::plan("spans answer questions only"));
        };
        let windows: Vec<WindowScores> = (outputs.iter())
            .map(|output| if let Output::Window(scores) = output { scores.clone() } else { WindowScores::default() })
            .collect();
        let SpanSearch { n_best_size, max_answer_length, .. } = self.search;
        Ok(decode(questions, &dataset.features, &windows, &DecodeOptions { n_best_size, max_answer_length }))
    }

    /// The task's scores; `outputs` go with the features. With `threshold`, questions whose no-answer logit is above it
    /// count as answered by nothing.
    ///
    /// # Errors
    /// When examples have no labels.
    pub fn score(&self, dataset: &Dataset, outputs: &[Output], threshold: Option<f64>) -> Result<Scores> {
        let Examples::Questions(questions) = &dataset.examples else { return self.score_labels(dataset, outputs) };
        let answers = self.decode(dataset, outputs)?;
        Ok(match (&self.task.source, &self.task.answer) {
            (Source::Squad { chinese: true, .. }, _) => chinese::score(questions, &answers),
            (_, Answer::Span { answerable: true }) => english::score_v2(questions, &answers, threshold),
            _ => english::score_v1(questions, &answers),
        })
    }

    fn score_labels(&self, dataset: &Dataset, outputs: &[Output]) -> Result<Scores> {
        let mut scores = Scores::new();
        let no_label = || Error::data(&dataset.path, "these examples have no labels, so there are no scores");
        match &self.task.answer {
            Answer::Number => {
                let (mut predicted, mut gold) = (vec![], vec![]);
                for (feature, output) in dataset.features.iter().zip(outputs) {
                    let (Target::Value(value), Output::Logits(logits)) = (&feature.target, output) else {
                        return Err(no_label());
                    };
                    gold.push(*value);
                    predicted.push(f64::from(logits[0]));
                }
                let square = |(p, g): (&f64, &f64)| (p - g).powi(2);
                let loss = predicted.iter().zip(&gold).map(square).sum::<f64>() / gold.len().max(1) as f64;
                scores.insert("eval_loss".into(), loss);
                // Where predictions are all the same there is no correlation; the original's is NaN then.
                scores.insert("eval_pearsonr".into(), metrics::pearson(&predicted, &gold).unwrap_or(0.0));
                scores.insert("eval_spearmanr".into(), metrics::spearman(&predicted, &gold).unwrap_or(0.0));
            }
            Answer::Tags(labels) => return score_tags(dataset, outputs, labels).ok_or_else(no_label),
            _ => {
                let (mut predicted, mut gold, mut loss) = (vec![], vec![], 0.0);
                for (feature, output) in dataset.features.iter().zip(outputs) {
                    let (Target::Class(class), Output::Logits(logits)) = (&feature.target, output) else {
                        return Err(no_label());
                    };
                    loss += metrics::cross_entropy(logits, *class);
                    gold.push(*class);
                    predicted.push(argmax(logits));
                }
                scores.insert("eval_accuracy".into(), metrics::accuracy(&predicted, &gold));
                scores.insert("eval_loss".into(), loss / gold.len().max(1) as f64);
                if matches!(&self.task.answer, Answer::Class(labels) if labels.len() == 2) {
                    scores.insert("eval_f1".into(), metrics::f1(&predicted, &gold, 1));
                    scores.insert("eval_matthews".into(), metrics::matthews(&predicted, &gold));
                }
                if let Examples::Choices(all) = &dataset.examples {
                    let groups: std::collections::BTreeSet<&str> = all.iter().map(|e| e.group.as_str()).collect();
                    for group in groups.into_iter().filter(|group| !group.is_empty()) {
                        let of = |classes: &[usize]| -> Vec<usize> {
                            let features = dataset.features.iter().zip(classes);
                            features.filter(|(f, _)| all[f.example].group == group).map(|(_, &class)| class).collect()
                        };
                        let accuracy = metrics::accuracy(&of(&predicted), &of(&gold));
                        scores.insert(format!("eval_accuracy_{group}"), accuracy);
                    }
                }
            }
        }
        Ok(scores)
    }

    /// Whether a score is better than another by the task's metric.
    pub fn rank(&self, scores: &Scores) -> f64 {
        scores.get(&self.task.metric).copied().unwrap_or(f64::NEG_INFINITY)
    }
}

/// Accuracy of words, loss, and F1 of entities.
fn score_tags(dataset: &Dataset, outputs: &[Output], labels: &[String]) -> Option<Scores> {
    let Examples::Tagged(examples) = &dataset.examples else { return None };
    let (mut right, mut words, mut loss) = (0usize, 0usize, 0.0);
    let (mut hits, mut found, mut there) = (0usize, 0usize, 0usize);
    for (feature, output) in dataset.features.iter().zip(outputs) {
        let (Target::Tokens(tags), Output::Tokens(logits)) = (&feature.target, output) else { return None };
        if examples[feature.example].tags.is_empty() {
            return None;
        }
        let (mut predicted, mut gold) = (vec![], vec![]);
        for (&tag, logits) in tags.iter().zip(logits).filter(|(tag, _)| **tag >= 0) {
            let (tag, best) = (tag as usize, argmax(logits));
            loss += metrics::cross_entropy(logits, tag);
            (right, words) = (right + usize::from(tag == best), words + 1);
            predicted.push(labels[best].as_str());
            gold.push(labels[tag].as_str());
        }
        // Words that were cut off count as missed.
        let cut = &examples[feature.example].tags[gold.len()..];
        words += cut.len();
        gold.extend(cut.iter().map(|&tag| labels[tag].as_str()));
        let (predicted, gold) = (metrics::entities(&predicted), metrics::entities(&gold));
        hits += predicted.iter().filter(|entity| gold.contains(entity)).count();
        (found, there) = (found + predicted.len(), there + gold.len());
    }
    let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
    let (precision, recall) = (share(hits, found), share(hits, there));
    let f1 = if hits == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
    Some(Scores::from([
        ("eval_accuracy".into(), share(right, words)),
        ("eval_f1".into(), f1),
        ("eval_loss".into(), loss / words.max(1) as f64),
        ("eval_precision".into(), precision),
        ("eval_recall".into(), recall),
    ]))
}

/// Whether every example has a label.
pub fn labelled(examples: &Examples) -> bool {
    match examples {
        Examples::Texts(all) => all.iter().all(|e| e.label != Label::Unknown),
        Examples::Choices(all) => all.iter().all(|e| e.label.is_some()),
        Examples::Tagged(all) => all.iter().all(|e| !e.tags.is_empty()),
        Examples::Questions(all) => all.questions.iter().all(|q| q.impossible || !q.answers.is_empty()),
    }
}
