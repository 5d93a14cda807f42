//! From log-probabilities of windows to texts.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::atomic::AtomicFile;
use crate::task::example::Questions;
use crate::task::feature::Feature;
use crate::{Error, Result};

/// How candidates are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeOptions {
    /// Candidates kept.
    pub n_best_size: usize,
    /// Longest answer, in pieces.
    pub max_answer_length: usize,
}

/// What a model says about a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowScores {
    /// Positions and log-probabilities of the best starts, best first.
    pub starts: Vec<(usize, f32)>,
    /// For each start positions and log-probabilities of its best ends.
    pub ends: Vec<Vec<(usize, f32)>>,
    /// Logit of "there is no answer"; 0 for models without it.
    pub no_answer: f32,
}

/// A possible answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// Its characters.
    pub text: String,
    /// Its share among the candidates kept.
    pub probability: f64,
    /// Log-probability of its start.
    pub start_log_prob: f32,
    /// Log-probability of its end, given the start.
    pub end_log_prob: f32,
    /// Its characters in the context, from and to; `None` for the empty text.
    #[serde(skip)]
    pub characters: Option<(usize, usize)>,
}

/// Answers to one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// The question's name.
    pub id: String,
    /// Best first; never empty.
    pub candidates: Vec<Candidate>,
    /// Smallest no-answer logit of its windows; 1000000 without windows.
    pub no_answer: f32,
}

impl Answered {
    /// The best text.
    pub fn text(&self) -> &str {
        self.candidates.first().map_or("", |c| c.text.as_str())
    }
}

/// The largest `count` values with their positions, best first; the first of equals comes first.
pub fn top(values: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut all: Vec<(usize, f32)> = values.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}

/// Answers all questions from the scores of their windows; `scores` go with `features`. Questions without features get
/// the empty text.
///
/// As in the original the last piece of a window's paragraph is never part of an answer, and the answer of a question
/// that may have none is its best text; the caller compares [`Answered::no_answer`] with a threshold.
pub fn decode(
    questions: &Questions,
    features: &[Feature],
    scores: &[WindowScores],
    options: &DecodeOptions,
) -> Vec<Answered> {
    let mut windows: Vec<Vec<usize>> = vec![vec![]; questions.questions.len()];
    for (i, feature) in features.iter().enumerate() {
        windows[feature.example].push(i);
    }
    let answer = |(question, windows): (&crate::task::example::Question, &Vec<usize>)| {
        let of = windows.iter().map(|&i| (&features[i], &scores[i])).collect::<Vec<_>>();
        let candidates = candidates(&questions.contexts[question.paragraph], &of, options);
        let no_answer = of.iter().map(|(_, s)| s.no_answer).fold(1_000_000.0, f32::min);
        Answered { id: question.id.clone(), candidates, no_answer }
    };
    questions.questions.iter().zip(&windows).map(answer).collect()
}

struct Preliminary {
    characters: (usize, usize),
    start_log_prob: f32,
    end_log_prob: f32,
}

fn candidates(context: &str, windows: &[(&Feature, &WindowScores)], options: &DecodeOptions) -> Vec<Candidate> {
    let mut all = vec![];
    for (feature, scores) in windows {
        let Some(window) = &feature.window else { continue };
        for (&(start, start_log_prob), ends) in scores.starts.iter().zip(&scores.ends) {
            for &(end, end_log_prob) in ends {
                let usable = window.paragraph_len.saturating_sub(1);
                let there = start < usable && end < usable && window.max_context[start];
                if !there || end < start || end - start + 1 > options.max_answer_length {
                    continue;
                }
                let characters = (window.characters[start].0 as usize, window.characters[end].1 as usize);
                all.push(Preliminary { characters, start_log_prob, end_log_prob });
            }
        }
    }
    // Stable: equals stay in the order of windows, starts and ends.
    all.sort_by(|a, b| sum(b).total_cmp(&sum(a)));
    let (mut kept, mut seen): (Vec<Candidate>, HashSet<String>) = (vec![], HashSet::new());
    for Preliminary { characters: (first, last), start_log_prob, end_log_prob } in all {
        if kept.len() >= options.n_best_size {
            break;
        }
        let text: String = context.chars().skip(first).take((last + 1).saturating_sub(first)).collect();
        let text = text.trim_matches(crate::data::text::is_space).to_owned();
        if seen.insert(text.clone()) {
            let characters = Some((first, last + 1));
            kept.push(Candidate { text, probability: 0.0, start_log_prob, end_log_prob, characters });
        }
    }
    if kept.is_empty() {
        let (start_log_prob, end_log_prob) = (-1e6, -1e6);
        kept.push(Candidate { text: String::new(), probability: 0.0, start_log_prob, end_log_prob, characters: None });
    }
    let sums: Vec<f64> = kept.iter().map(|c| f64::from(c.start_log_prob) + f64::from(c.end_log_prob)).collect();
    let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = sums.iter().map(|s| (s - most).exp()).sum();
    for (candidate, sum) in kept.iter_mut().zip(sums) {
        candidate.probability = (sum - most).exp() / total;
    }
    kept
}

fn sum(p: &Preliminary) -> f64 {
    f64::from(p.start_log_prob) + f64::from(p.end_log_prob)
}

/// Writes the original's files into `dir`, with `prefix` before their names: `predictions.json`,
/// `nbest_predictions.json` and, where questions may have no answer, `null_odds.json`. With a threshold, a question
/// whose no-answer logit is above it is answered by the empty text.
///
/// # Errors
/// When the disk refuses.
pub fn write_predictions(
    dir: &Path,
    prefix: &str,
    answers: &[Answered],
    answerable: bool,
    threshold: Option<f64>,
) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let text = |a: &Answered| match threshold {
        Some(threshold) if f64::from(a.no_answer) > threshold => String::new(),
        _ => a.text().to_owned(),
    };
    let file = |name: &str| dir.join(format!("{prefix}{name}"));
    write_json(&file("predictions.json"), answers.iter().map(|a| (&a.id, text(a))))?;
    write_json(&file("nbest_predictions.json"), answers.iter().map(|a| (&a.id, &a.candidates)))?;
    if answerable {
        write_json(&file("null_odds.json"), answers.iter().map(|a| (&a.id, a.no_answer)))?;
    }
    Ok(())
}

/// Writes an object in the order given, four spaces deep.
fn write_json<'a, T: Serialize>(path: &Path, pairs: impl Iterator<Item = (&'a String, T)>) -> Result<()> {
    let mut bytes = vec![];
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serializer.collect_map(pairs).map_err(|e| Error::data(path, format!("this is no JSON: {e}")))?;
    writeln!(bytes).map_err(|e| Error::io("write", path, e))?;
    let mut file = AtomicFile::create(path)?;
    file.append(&bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::example::Question;
    use crate::task::feature::{Sequence, Target, Window};

    fn case() -> (Questions, Feature) {
        let context = "ab cd ef gh".to_owned();
        let question = Question { id: "q".into(), ..Question::default() };
        let window = Window {
            index: 0,
            paragraph_len: 4,
            characters: vec![(0, 1), (2, 4), (5, 7), (8, 10)],
            max_context: vec![true, true, false, true],
        };
        let sequences = vec![Sequence { ids: vec![0; 8], segments: vec![0; 8] }];
        let feature = Feature { example: 0, sequences, target: Target::None, window: Some(window) };
        (Questions { contexts: vec![context], questions: vec![question] }, feature)
    }

    #[test]
    fn candidates_follow_the_original_s_rules() {
        let (questions, feature) = case();
        let scores = WindowScores {
            starts: vec![(3, -0.1), (1, -0.5), (2, -0.6), (0, -1.0)],
            ends: vec![
                vec![(3, -0.1), (4, 0.0)],            // the last piece can't be used
                vec![(1, -0.5), (2, -0.5), (0, 0.0)], // equals stay in order; an end before the start goes
                vec![(2, 0.0)],                       // seen better elsewhere
                vec![(2, -0.2), (1, -3.0)],
            ],
            no_answer: -2.5,
        };
        let options = DecodeOptions { n_best_size: 3, max_answer_length: 2 };
        let got = decode(&questions, &[feature], &[scores], &options);
        let texts: Vec<&str> = got[0].candidates.iter().map(|c| c.text.as_str()).collect();
        assert_eq!(texts, ["cd", "cd ef", "ab cd"]);
        assert_eq!(got[0].no_answer, -2.5);
        assert!((got[0].candidates.iter().map(|c| c.probability).sum::<f64>() - 1.0).abs() < 1e-12);
    }
    #[test]
    fn nothing_left_is_the_empty_text() {
        let (questions, _) = case();
        let got = decode(&questions, &[], &[], &DecodeOptions { n_best_size: 5, max_answer_length: 9 });
        assert_eq!((got[0].text(), got[0].no_answer, got[0].candidates[0].probability), ("", 1e6, 1.0));
        let dir = tempfile::tempdir().unwrap();
        write_predictions(dir.path(), "dev_", &got, true, None).unwrap();
        let text = std::fs::read_to_string(dir.path().join("dev_predictions.json")).unwrap();
        assert_eq!(text, "{\n    \"q\": \"\"\n}\n");
    }
    #[test]
    fn the_first_of_equals_is_on_top() {
        assert_eq!(top(&[0.5, 2.0, 2.0, -1.0], 3), [(1, 2.0), (2, 2.0), (0, 0.5)]);
    }
}
