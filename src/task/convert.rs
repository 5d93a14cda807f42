//! Examples to features, in parallel.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::encoder::Encoder;
use super::example::{Examples, Questions, Remarks};
use super::feature::{Feature, Padding, Target};
use super::span::convert::{Lengths, Pieces};
use super::{Answer, Source, Task, choices, span, tagged, texts};
use crate::data::text::TextOptions;
use crate::{Error, Result};

/// Lengths and cleaning of a conversion; part of a fine-tuned model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversion {
    /// Tokens of a sequence at most.
    pub max_seq_length: usize,
    /// Windows of so many tokens that a longer text is read in.
    #[serde(default = "one")]
    pub windows: usize,
    /// Tokens of a question about a paragraph at most.
    pub max_query_length: usize,
    /// Pieces from one window of a paragraph to the next.
    pub doc_stride: usize,
    /// Tokens of question and option of a multiple choice at most.
    pub max_qa_length: usize,
    /// Contexts keep the tokens of earlier options, as the original's RACE does by mistake.
    pub accumulate_options: bool,
    /// Lower-case the text.
    pub uncased: bool,
    /// Keep accents.
    pub keep_accents: bool,
}

fn one() -> usize {
    1
}

impl Default for Conversion {
    /// The original's defaults.
    fn default() -> Self {
        Conversion {
            max_seq_length: 128,
            windows: 1,
            max_query_length: 64,
            doc_stride: 128,
            max_qa_length: 128,
            accumulate_options: false,
            uncased: false,
            keep_accents: false,
        }
    }
}

/// Features, and what could not be converted.
pub type Converted = (Vec<Feature>, Remarks);

impl Conversion {
    /// Tokens of all windows of a text.
    pub fn total_length(&self) -> usize {
        self.max_seq_length.saturating_mul(self.windows)
    }
    /// The cleaning before the vocabulary.
    pub fn text(&self) -> TextOptions {
        TextOptions { lower: self.uncased, keep_accents: self.keep_accents, ..TextOptions::default() }
    }

    /// Checks that sequences hold what they must.
    ///
    /// # Errors
    /// A sentence that names the length.
    pub fn validate(&self, task: &Task) -> Result<()> {
        let max = self.max_seq_length;
        let refuse = |what: String| Err(Error::config(what));
        if self.windows == 0 || self.total_length() > 1 << 20 {
            let windows = self.windows;
            return refuse(format!("windows must be between 1 and {}, but is {windows}", (1 << 20) / max.max(1)));
        }
        if self.windows > 1 && matches!(task.answer, Answer::Span { .. } | Answer::Tags(_)) {
            let what = "windows carries a text's memory to its end, where classes, numbers and choices are answered";
            return refuse(format!("{what}; {} answers at every token, so windows must be 1", task.name));
        }
        match &task.source {
            Source::Squad { .. } if max < self.max_query_length + 4 => {
                let query = self.max_query_length;
                refuse(format!("max_seq_length must be at least max_query_length ({query}) + 4, but is {max}"))
            }
            Source::Squad { .. } if self.doc_stride == 0 => refuse("doc_stride must be at least 1, but is 0".into()),
            Source::Race(_) | Source::ChoiceLines if max < self.max_qa_length + 4 => {
                let qa = self.max_qa_length;
                refuse(format!("max_seq_length must be at least max_qa_length ({qa}) + 4, but is {max}"))
            }
            _ if !(5..=1 << 16).contains(&max) => {
                refuse(format!("max_seq_length must be between 5 and {}, but is {max}", 1 << 16))
            }
            _ => Ok(()),
        }
    }

    /// Converts all examples; `path` is where they come from, for remarks. With `training`, spans have their answers'
    /// places.
    ///
    /// # Errors
    /// When a text cannot be encoded.
    pub fn convert(
        &self,
        task: &Task,
        examples: &Examples,
        encoder: &Encoder,
        training: bool,
        path: &Path,
    ) -> Result<Converted> {
        let mut features = vec![];
        let remarks = self.stream(task, examples, encoder, training, path, &mut |feature| {
            features.push(feature);
            Ok(())
        })?;
        Ok((features, remarks))
    }

    /// Converts examples part by part, in parallel, and hands features to `sink` in order.
    ///
    /// # Errors
    /// When a text cannot be encoded, or the sink fails.
    pub fn stream(
        &self,
        task: &Task,
        examples: &Examples,
        encoder: &Encoder,
        training: bool,
        path: &Path,
        sink: &mut dyn FnMut(Feature) -> Result<()>,
    ) -> Result<Remarks> {
        const PART: usize = 4096; // examples in memory as features
        self.validate(task)?;
        let mut remarks = Remarks::default();
        if let Examples::Questions(questions) = examples {
            return self.stream_questions(task, questions, encoder, training, path, sink);
        }
        let indices: Vec<usize> = (0..examples.len()).collect();
        for part in indices.chunks(PART) {
            let one = |&i: &usize| -> Result<(Feature, Option<String>)> {
                Ok(match examples {
                    Examples::Texts(all) => (texts::convert(&all[i], i, encoder, self.total_length())?, None),
                    Examples::Choices(all) => {
                        let (max, qa) = (self.total_length(), self.max_qa_length);
                        (choices::convert(&all[i], i, encoder, max, qa, self.accumulate_options)?, None)
                    }
                    Examples::Tagged(all) => tagged::convert(&all[i], i, encoder, self.max_seq_length)?,
                    Examples::Questions(_) => unreachable!("questions took the other way"),
                })
            };
            let converted: Vec<_> = part.par_iter().map(one).collect::<Result<_>>()?;
            for (feature, cut) in converted {
                if let Some(what) = cut {
                    remarks.note(path, None, what);
                }
                sink(feature)?;
            }
        }
        Ok(remarks)
    }

    /// Paragraph by paragraph, since all questions of a paragraph share its pieces.
    fn stream_questions(
        &self,
        task: &Task,
        questions: &Questions,
        encoder: &Encoder,
        training: bool,
        path: &Path,
        sink: &mut dyn FnMut(Feature) -> Result<()>,
    ) -> Result<Remarks> {
        const PART: usize = 256; // paragraphs in memory as features
        let clamp = matches!(task.source, Source::Squad { chinese: true, .. });
        let lengths = Lengths {
            max_seq_length: self.max_seq_length,
            max_query_length: self.max_query_length,
            doc_stride: self.doc_stride,
        };
        let mut groups: Vec<Vec<usize>> = vec![]; // neighbouring questions about one paragraph
        for (i, question) in questions.questions.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if questions.questions[group[0]].paragraph == question.paragraph => group.push(i),
                _ => groups.push(vec![i]),
            }
        }
        let mut remarks = Remarks::default();
        for part in groups.chunks(PART) {
            let one = |group: &Vec<usize>| -> Result<Vec<Result<Vec<Feature>, String>>> {
                let of = |i: usize| &questions.questions[i];
                let pieces = Pieces::new(&questions.contexts[of(group[0]).paragraph], encoder)?;
                let Some(pieces) = pieces else {
                    let mismatch = |&i: &usize| {
                        let id = &of(i).id;
                        Err(format!("question {id}: the pieces of its paragraph do not match the paragraph's text"))
                    };
                    return Ok(group.iter().map(mismatch).collect());
                };
                let convert = |&i: &usize| span::convert::convert(of(i), i, &pieces, encoder, lengths, training, clamp);
                group.iter().map(convert).collect()
            };
            let converted: Vec<_> = part.par_iter().map(one).collect::<Result<_>>()?;
            for features in converted.into_iter().flatten() {
                match features {
                    Ok(features) => features.into_iter().try_for_each(&mut *sink)?,
                    Err(what) => remarks.skip(path, None, what),
                }
            }
        }
        Ok(remarks)
    }
}

/// The original's first `unique_id` of span features.
const FIRST_UNIQUE_ID: u64 = 1_000_000_000;

impl Task {
    /// Which end is padded.
    pub fn padding(&self) -> Padding {
        if matches!(self.source, Source::Squad { .. }) { Padding::Right } else { Padding::Left }
    }

    /// A feature as the original stores it, padded to `length`: names and values of its records, and what they refer
    /// to. `number` counts features from 0.
    pub fn feature_json(&self, feature: &Feature, examples: &Examples, length: usize, number: u64) -> Value {
        let padding = self.padding();
        let all = |pad: &dyn Fn(&super::feature::Sequence) -> Vec<i32>| -> Vec<i32> {
            feature.sequences.iter().flat_map(pad).collect()
        };
        let mut json = BTreeMap::from([
            ("id", json!(examples.id(feature.example))),
            ("input_ids", json!(all(&|s| padding.pad(&s.ids, 0, length)))),
            ("input_mask", json!(all(&|s| padding.pad(&vec![0; s.len()], 1, length)))),
            ("segment_ids", json!(all(&|s| padding.pad(&s.segments, padding.segment(), length)))),
        ]);
        if let Some(window) = &feature.window {
            let barred: Vec<i32> = feature.barred(length).iter().map(|&x| x as i32).collect();
            json.extend([
                ("unique_ids", json!(FIRST_UNIQUE_ID + number)),
                ("doc_span_index", json!(window.index)),
                ("p_mask", json!(barred)),
                ("cls_index", json!(feature.cls())),
                ("paragraph_len", json!(window.paragraph_len)),
                ("tok_start_to_orig_index", json!(window.characters.iter().map(|c| c.0).collect::<Vec<_>>())),
                ("tok_end_to_orig_index", json!(window.characters.iter().map(|c| c.1).collect::<Vec<_>>())),
                ("token_is_max_context", json!(window.max_context)),
            ]);
        }
        match &feature.target {
            Target::None => {}
            Target::Class(class) => drop(json.insert("label_ids", json!(class))),
            Target::Value(value) => drop(json.insert("label_ids", json!(value))),
            Target::Span { start, end, impossible } => json.extend([
                ("start_positions", json!(start)),
                ("end_positions", json!(end)),
                ("is_impossible", json!(i32::from(*impossible))),
            ]),
            Target::Tokens(tags) => drop(json.insert("label_ids", json!(padding.pad(tags, -1, length)))),
        }
        json!(json)
    }
}
