//! Predictions: files as the original writes them, and a predictor that serves single requests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::cache::Dataset;
use super::evaluate::{Output, Setup};
use super::example::{ChoiceExample, Examples, Label, Questions, TaggedExample, TextExample};
use super::feature::{Feature, Target};
use super::fine_tuned::FineTuned;
use super::metrics::argmax;
use super::programs::{Programs, Size};
use super::span::decode::write_predictions;
use super::{Answer, Source, choices, example};
use crate::atomic::AtomicFile;
use crate::data::record_info::Split;
use crate::train::session::Session;
use crate::{Error, Result};

/// How predictions are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Writing {
    /// With two classes, the second is predicted when its logit is larger by more than this.
    pub predict_threshold: f64,
    /// Questions whose no-answer logit is above this are answered by nothing.
    pub null_threshold: Option<f64>,
    /// The set.
    pub split: Split,
}

/// Writes the predictions of a set into `dir`, by the original's names: `{task}.tsv` and `{task}.logits.json` for
/// classes, numbers and choices, `predictions.json` and its companions for spans, `{task}.conll` for tags. Returns the
/// first file.
///
/// # Errors
/// When the disk refuses.
pub fn write(dir: &Path, model: &FineTuned, dataset: &Dataset, outputs: &[Output], how: Writing) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let task = &model.file.task;
    if let Answer::Span { answerable } = task.answer {
        let answers = model.setup.decode(dataset, outputs)?;
        let prefix = match &task.source {
            Source::Squad { chinese: true, .. } => format!("{}_", how.split),
            _ => String::new(),
        };
        write_predictions(dir, &prefix, &answers, answerable, how.null_threshold)?;
        return Ok(dir.join(format!("{prefix}predictions.json")));
    }
    if let Answer::Tags(labels) = &task.answer {
        let path = dir.join(format!("{}.conll", task.name));
        return write_tags(&path, dataset, outputs, labels).map(|()| path);
    }
    let path = dir.join(format!("{}.tsv", task.name));
    let mut tsv = String::from("index\tprediction\n");
    let mut all = vec![];
    for (i, output) in outputs.iter().enumerate() {
        let Output::Logits(logits) = output else { continue };
        let answer = match &task.answer {
            Answer::Class(labels) => labels[class(logits, how.predict_threshold)].clone(),
            Answer::Choice(_) => argmax(logits).to_string(),
            _ => logits[0].to_string(),
        };
        tsv.push_str(&format!("{i}\t{answer}\n"));
        all.push(logits);
    }
    let mut file = AtomicFile::create(&path)?;
    file.append(tsv.as_bytes())?;
    file.commit()?;
    let logits = dir.join(format!("{}.logits.json", task.name));
    let mut bytes = vec![];
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    all.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|e| Error::data(&logits, format!("this is no JSON: {e}")))?;
    let mut file = AtomicFile::create(&logits)?;
    file.append(&bytes)?;
    file.commit()?;
    Ok(path)
}

/// The class of logits: the largest, or the second of two when it is larger by more than `threshold`.
fn class(logits: &[f32], threshold: f64) -> usize {
    match logits {
        [first, second] => usize::from(f64::from(second - first) > threshold),
        _ => argmax(logits),
    }
}

/// Best tag of each word that was shown, in order.
fn tags(feature: &Feature, logits: &[Vec<f32>]) -> Vec<usize> {
    let Target::Tokens(first_pieces) = &feature.target else { return vec![] };
    first_pieces.iter().zip(logits).filter(|(tag, _)| **tag >= 0).map(|(_, logits)| argmax(logits)).collect()
}

fn write_tags(path: &Path, dataset: &Dataset, outputs: &[Output], labels: &[String]) -> Result<()> {
    let Examples::Tagged(examples) = &dataset.examples else { return Ok(()) };
    let mut file = AtomicFile::create(path)?;
    for (feature, output) in dataset.features.iter().zip(outputs) {
        let Output::Tokens(logits) = output else { continue };
        let tags = tags(feature, logits);
        let mut text = String::new();
        for (i, word) in examples[feature.example].words.iter().enumerate() {
            // Words that did not fit have the tag of most words.
            let tag = tags.get(i).map_or("O", |&tag| labels[tag].as_str());
            text.push_str(&format!("{word}\t{tag}\n"));
        }
        text.push('\n');
        file.append(text.as_bytes())?;
    }
    file.commit()
}

/// A question to a predictor; which fields it needs depends on the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Text to classify or to tag.
    #[serde(alias = "text_a", skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Second text of a pair.
    #[serde(alias = "text_b", skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// Paragraph of a question or of a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Choices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// Words to tag, instead of a text, which is cut at white space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<String>>,
}

/// A predictor's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// A class.
    Class {
        /// Its name.
        label: String,
        /// Shares of all classes, by name.
        probabilities: BTreeMap<String, f32>,
    },
    /// A number.
    Number {
        /// It.
        value: f32,
    },
    /// A choice.
    Choice {
        /// Its index.
        choice: usize,
        /// Shares of all choices.
        scores: Vec<f32>,
    },
    /// A span.
    Span {
        /// Its text.
        answer: String,
        /// Its share among the candidates.
        probability: f64,
        /// First character in the context; absent for the empty text.
        start: Option<usize>,
        /// One beyond the last.
        end: Option<usize>,
        /// Logit of "there is no answer"; compare it with the best threshold of the evaluation.
        no_answer: Option<f32>,
    },
    /// Tags.
    Tags {
        /// The words.
        words: Vec<String>,
        /// A tag for each that fitted.
        tags: Vec<String>,
    },
}

/// A fine-tuned model that answers requests from many threads. Requests of like length run together; programs for a few
/// numbers and lengths of requests are kept, which share the weights.
pub struct Predictor {
    model: FineTuned,
    programs: Mutex<Programs>,
}

impl std::fmt::Debug for Predictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Predictor").field("path", &self.model.path).finish_non_exhaustive()
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all: Vec<f32> = logits.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = all.iter().sum();
    all.into_iter().map(|x| x / sum).collect()
}

impl Predictor {
    /// Serves `model`; programs for at most `most_programs` sizes of batch are kept. That of the largest is opened at once
    /// and takes the weights.
    ///
    /// # Errors
    /// When the device is missing, has too little memory for the largest batch, or weights do not fit.
    pub fn new(mut model: FineTuned, most_programs: usize) -> Result<Self> {
        let Setup { batch, max_seq_length, .. } = model.setup;
        let size = Size { batch, length: model.setup.length(max_seq_length) };
        let weights = std::mem::take(&mut model.weights); // they live on the device from now on
        let largest = model.setup.session(size.batch, size.length, &weights)?;
        Ok(Predictor { model, programs: Mutex::new(Programs::new(size, largest, most_programs)) })
    }
    /// Bytes of device memory that it holds.
    pub fn held_bytes(&self) -> usize {
        self.programs().held_bytes()
    }
    fn programs(&self) -> MutexGuard<'_, Programs> {
        // A thread that panicked left programs whose next batch overwrites everything.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The model; its weights are on the device.
    pub fn model(&self) -> &FineTuned {
        &self.model
    }

    /// Turns a request into an example.
    ///
    /// # Errors
    /// When the task needs another field, or a text is empty; the sentence names it.
    fn example(&self, request: &Request) -> Result<Examples> {
        let task = &self.model.file.task;
        let refuse = |what: &str| Err(Error::config(format!("task {}: {what}", task.name)));
        let given = [
            ("text", request.text.is_some()),
            ("text_pair", request.text_pair.is_some()),
            ("context", request.context.is_some()),
            ("question", request.question.is_some()),
            ("choices", request.choices.is_some()),
            ("words", request.words.is_some()),
        ];
        let known: &[&str] = match task.answer {
            Answer::Class(_) | Answer::Number => &["text", "text_pair"],
            Answer::Choice(_) => &["context", "question", "choices"],
            Answer::Span { .. } => &["context", "question"],
            Answer::Tags(_) => &["text", "words"],
        };
        if let Some((extra, _)) = given.iter().find(|(name, there)| *there && !known.contains(name)) {
            return refuse(&format!("there is no field {extra} here; its fields are {}", known.join(", ")));
        }
        let filled = |name: &str, text: &Option<String>| match text {
            Some(text) if !text.trim().is_empty() => Ok(text.clone()),
            Some(_) => Err(Error::config(format!("field {name} is empty"))),
            None => Err(Error::config(format!("field {name} is missing"))),
        };
        Ok(match task.answer {
            Answer::Class(_) | Answer::Number => {
                let text_a = filled("text", &request.text)?;
                let (text_b, label) = (request.text_pair.clone(), Label::Unknown);
                Examples::Texts(vec![TextExample { id: String::new(), text_a, text_b, label }])
            }
            Answer::Choice(count) => {
                let context = filled("context", &request.context)?;
                let given = request.choices.clone().unwrap_or_default();
                if given.len() != count {
                    return refuse(&format!("choices must have {count} texts, but has {}", given.len()));
                }
                let choices = match &request.question {
                    Some(question) => given.iter().map(|choice| choices::fill(question, choice)).collect(),
                    None => given,
                };
                Examples::Choices(vec![ChoiceExample { context, choices, ..ChoiceExample::default() }])
            }
            Answer::Span { .. } => {
                let contexts = vec![filled("context", &request.context)?];
                let question = filled("question", &request.question)?;
                let questions = vec![example::Question { question, ..example::Question::default() }];
                Examples::Questions(Questions { contexts, questions })
            }
            Answer::Tags(_) => {
                let words: Vec<String> = match &request.words {
                    Some(words) => words.clone(),
                    None => filled("text", &request.text)?.split_whitespace().map(str::to_owned).collect(),
                };
                if words.is_empty() {
                    return refuse("words is empty");
                }
                Examples::Tagged(vec![TaggedExample { line: 1, words, tags: vec![] }])
            }
        })
    }

    /// Answers requests, each with its answer or what is wrong with it.
    pub fn predict(&self, requests: &[Request]) -> Vec<Result<Response>> {
        let convert = |request: &Request| -> Result<(Examples, Vec<Feature>)> {
            let examples = self.example(request)?;
            let (task, conversion) = (&self.model.file.task, &self.model.file.conversion);
            let encoder = self.model.encoder();
            let (features, remarks) = conversion.convert(task, &examples, &encoder, false, Path::new("request"))?;
            match remarks.skipped.into_iter().next() {
                Some(remark) => Err(Error::config(remark.what)),
                None => Ok((examples, features)),
            }
        };
        let converted: Vec<_> = requests.iter().map(convert).collect();
        let features: Vec<&Feature> = converted.iter().flatten().flat_map(|(_, features)| features).collect();
        let outputs = match self.answer(&features) {
            Ok(outputs) => outputs,
            Err(error) => {
                let what = error.to_string();
                return converted.iter().map(|_| Err(Error::device(what.clone()))).collect();
            }
        };
        let mut outputs = outputs.into_iter();
        let respond = |converted: Result<(Examples, Vec<Feature>)>| {
            let (examples, features) = converted?;
            let own: Vec<Output> = outputs.by_ref().take(features.len()).collect();
            self.respond(examples, features, &own)
        };
        converted.into_iter().map(respond).collect()
    }

    fn answer(&self, features: &[&Feature]) -> Result<Vec<Output>> {
        let setup = &self.model.setup;
        let by_shape = setup.by_shape(features.iter().copied());
        let mut outputs: Vec<Option<Output>> = vec![None; features.len()];
        let mut programs = self.programs();
        for ((length, _), indices) in by_shape {
            let open = |largest: &mut Session, Size { batch, length }| setup.session_beside(largest, batch, length);
            let (batch, session) = programs.of(indices.len(), length, open)?;
            for some in indices.chunks(batch) {
                let rows: Vec<&Feature> = some.iter().map(|&i| features[i]).collect();
                for (&i, output) in some.iter().zip(setup.answer_batch(session, &rows)?) {
                    outputs[i] = Some(output);
                }
            }
        }
        let missing = || Error::plan("a feature was not answered");
        outputs.into_iter().map(|output| output.ok_or_else(missing)).collect()
    }

    fn respond(&self, examples: Examples, features: Vec<Feature>, outputs: &[Output]) -> Result<Response> {
        let nothing = || Error::plan("a request without an answer");
        match (&self.model.file.task.answer, outputs.first().ok_or_else(nothing)?) {
            (Answer::Class(labels), Output::Logits(logits)) => {
                let probabilities = labels.iter().cloned().zip(softmax(logits)).collect();
                Ok(Response::Class { label: labels[argmax(logits)].clone(), probabilities })
            }
            (Answer::Number, Output::Logits(logits)) => Ok(Response::Number { value: logits[0] }),
            (Answer::Choice(_), Output::Logits(logits)) => {
                Ok(Response::Choice { choice: argmax(logits), scores: softmax(logits) })
            }
            (Answer::Tags(labels), Output::Tokens(logits)) => {
                let Examples::Tagged(all) = examples else { return Err(nothing()) };
                let tags = tags(&features[0], logits).into_iter().map(|tag| labels[tag].clone()).collect();
                let words = all.into_iter().next().map(|example| example.words).unwrap_or_default();
                Ok(Response::Tags { words, tags })
            }
            (Answer::Span { answerable }, Output::Window(_)) => {
                let (path, remarks) = (PathBuf::new(), example::Remarks::default());
                let dataset = Dataset { examples, features, remarks, path };
                let answered = self.model.setup.decode(&dataset, outputs)?.into_iter().next().ok_or_else(nothing)?;
                let best = answered.candidates.first().ok_or_else(nothing)?;
                Ok(Response::Span {
                    answer: best.text.clone(),
                    probability: best.probability,
                    start: best.characters.map(|(start, _)| start),
                    end: best.characters.map(|(_, end)| end),
                    no_answer: answerable.then_some(answered.no_answer),
                })
            }
            _ => Err(nothing()),
        }
    }
}
