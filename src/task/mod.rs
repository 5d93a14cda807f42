//! Fine-tuning and evaluation: every task from raw files to predictions and scores.
//!
//! A [`Task`] says where examples come from, what head answers them and how answers are scored. Its examples
//! ([`example`]) become [`feature`]s, exactly as the original's programs convert them; [`finetune`] trains on features,
//! [`evaluate`] answers and scores them, [`predict`] serves a fine-tuned directory.

pub mod batch;
pub mod cache;
pub mod choices;
pub mod config;
pub mod convert;
pub mod embed;
pub mod encoder;
pub mod evaluate;
pub mod example;
pub mod feature;
pub mod fine_tuned;
pub mod finetune;
pub mod generate;
pub mod metrics;
pub mod predict;
mod programs;
pub mod span;
mod start;
pub mod table;
pub mod tagged;
pub mod texts;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::data::record_info::Split;
use crate::train::keys::near;
use crate::{Error, Result};
use choices::Levels;
use example::{Examples, Remarks};
use table::{Column, Format, Layout};
use texts::TextSource;

/// What a task's examples are answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// One of these classes.
    Class(Vec<String>),
    /// A number.
    Number,
    /// One of so many choices.
    Choice(usize),
    /// A span of the paragraph.
    Span {
        /// There may be none.
        answerable: bool,
    },
    /// One of these tags for each word.
    Tags(Vec<String>),
}

/// Where examples come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Tables of texts, or folders of them.
    Texts(TextSource),
    /// Paragraphs with questions.
    Squad {
        /// CMRC 2018 and DRCD: scored by characters, answers beyond the paragraph are moved into it.
        chinese: bool,
        /// Beginning of the files' names, for example `cmrc2018_`.
        prefix: String,
        /// Their ends: train, dev, test.
        names: [String; 3],
    },
    /// RACE.
    Race(Levels),
    /// Multiple choice as JSON lines.
    ChoiceLines,
    /// Words in columns.
    Words {
        /// Column of words, from 0.
        word: usize,
        /// Column of tags; the last one when absent.
        tag: Option<usize>,
    },
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What answers it.
    pub answer: Answer,
    /// Where its examples come from.
    pub source: Source,
    /// The score that ranks checkpoints.
    pub metric: String,
}

/// Which examples to read.
#[derive(Clone, Debug)]
pub struct Place {
    /// Directory of the task.
    pub dir: PathBuf,
    /// Which of its sets.
    pub split: Split,
    /// A file instead of the set's own.
    pub file: Option<PathBuf>,
}

/// What shapes a task that has no fixed files: columns and labels.
#[derive(Clone, Debug, Default)]
pub struct Custom {
    /// First text: a name, or a number from 0.
    pub text_a: Option<String>,
    /// Second text.
    pub text_b: Option<String>,
    /// Label.
    pub label: Option<String>,
    /// Classes in order; those of the training file, sorted, when empty.
    pub labels: Vec<String>,
    /// The label is a number.
    pub regression: bool,
    /// Tables have no row of names.
    pub no_header: bool,
    /// RACE's levels.
    pub levels: Levels,
}

/// Tasks besides those over texts.
const OTHERS: [&str; 9] = ["squad", "squad1.1", "cmrc2018", "drcd", "race", "choice", "ner", "text", "squad2.0"];

impl Task {
    /// The task called `name`. `text`, `choice` and `ner` take their labels from `train` where `custom` gives none.
    ///
    /// # Errors
    /// When there is no such task, or it needs settings or files that are not there.
    pub fn named(name: &str, custom: &Custom, train: &Place) -> Result<Task> {
        let lower = name.to_lowercase();
        let task = |answer, source, metric: &str| Task { name: lower.clone(), answer, source, metric: metric.into() };
        let squad = |answerable, chinese, prefix: &str, names: [&str; 3], metric| {
            let source = Source::Squad { chinese, prefix: prefix.into(), names: names.map(str::to_owned) };
            Ok(task(Answer::Span { answerable }, source, metric))
        };
        if let Some((labels, source)) = texts::named(&lower) {
            let answer = if labels.is_empty() { Answer::Number } else { Answer::Class(labels) };
            return Ok(task(answer, Source::Texts(source), text_metric(&lower)));
        }
        let json = ["train.json", "dev.json", "test.json"];
        match lower.as_str() {
            "squad" | "squad2.0" => {
                squad(true, false, "", ["train-v2.0.json", "dev-v2.0.json", "test-v2.0.json"], "best_f1")
            }
            "squad1.1" => squad(false, false, "", ["train-v1.1.json", "dev-v1.1.json", "test-v1.1.json"], "f1"),
            "cmrc2018" => squad(false, true, "cmrc2018_", json, "AVERAGE"),
            "drcd" => squad(false, true, "DRCD_", ["training.json", "dev.json", "test.json"], "AVERAGE"),
            "race" => Ok(task(Answer::Choice(4), Source::Race(custom.levels), "eval_accuracy")),
            "choice" => {
                let file = file_of(train, "train.jsonl");
                let first = choices::read_lines(&file, None, &mut Remarks::default())?.first().map(|e| e.choices.len());
                let count = first.ok_or_else(|| Error::data(&file, "there are no examples in this file"))?;
                Ok(task(Answer::Choice(count), Source::ChoiceLines, "eval_accuracy"))
            }
            "ner" => {
                let (word, tag) = (number(custom.text_a.as_deref())?.unwrap_or(0), number(custom.label.as_deref())?);
                let labels = match custom.labels.as_slice() {
                    [] => tagged::labels(&file_of(train, "train.txt"), (word, tag))?,
                    labels => labels.to_vec(),
                };
                check_labels(&labels)?;
                Ok(task(Answer::Tags(labels), Source::Words { word, tag }, "eval_f1"))
            }
            "text" => {
                let source = custom.source(train)?;
                let (answer, metric) = if custom.regression {
                    (Answer::Number, "eval_pearsonr")
                } else {
                    let labels = match custom.labels.as_slice() {
                        [] => source.labels(train)?,
                        labels => labels.to_vec(),
                    };
                    check_labels(&labels)?;
                    (Answer::Class(labels), "eval_accuracy")
                };
                Ok(task(answer, Source::Texts(source), metric))
            }
            _ => Err(unknown(name)),
        }
    }

    /// Reads a set; with `labelled`, labels must be there.
    ///
    /// # Errors
    /// When files are missing or damaged, or a label is unknown; the sentence names file and line.
    pub fn read(&self, place: &Place, labelled: bool) -> Result<(Examples, Remarks)> {
        let mut remarks = Remarks::default();
        let r = &mut remarks;
        let examples = match (&self.source, &self.answer) {
            (Source::Texts(source), answer) => {
                let labels: &[String] = if let Answer::Class(labels) = answer { labels } else { &[] };
                Examples::Texts(source.read(place, labels, labelled, r)?)
            }
            (Source::Squad { .. }, answer) => {
                let answerable = *answer == Answer::Span { answerable: true };
                let training = labelled && place.split == Split::Train;
                Examples::Questions(span::read::read(&self.file(place), answerable, training, r)?)
            }
            (Source::Race(levels), _) => Examples::Choices(choices::read_race(&self.file(place), *levels, r)?),
            (Source::ChoiceLines, answer) => {
                let count = if let Answer::Choice(count) = answer { Some(*count) } else { None };
                Examples::Choices(choices::read_lines(&self.file(place), count, r)?)
            }
            (Source::Words { word, tag }, answer) => {
                let labels: &[String] = if let Answer::Tags(labels) = answer { labels } else { &[] };
                Examples::Tagged(tagged::read(&self.file(place), (*word, *tag), labels, labelled, r)?)
            }
        };
        if labelled {
            self.check_labelled(place, &examples)?;
        }
        if examples.is_empty() {
            let why =
                remarks.skipped.first().map_or(String::new(), |first| format!("; the first one left out: {first}"));
            return Err(Error::data(self.file(place), format!("there are no examples{why}")));
        }
        Ok((examples, remarks))
    }

    fn check_labelled(&self, place: &Place, examples: &Examples) -> Result<()> {
        let missing = match examples {
            Examples::Choices(all) => all.iter().position(|e| e.label.is_none()),
            Examples::Texts(all) => all.iter().position(|e| e.label == example::Label::Unknown),
            _ => None,
        };
        match missing {
            Some(index) => {
                let id = examples.id(index);
                Err(Error::data(self.file(place), format!("example {id} has no label, which training and scores need")))
            }
            None => Ok(()),
        }
    }

    /// The file or directory that a set is read from, as far as it is one.
    pub fn file(&self, place: &Place) -> PathBuf {
        let at = match place.split {
            Split::Train => 0,
            Split::Dev => 1,
            Split::Test => 2,
        };
        match &self.source {
            Source::Texts(source) => match source.file(&place.dir, place.split, place.file.as_deref()) {
                Ok(Some((path, _))) => path,
                _ => place.dir.clone(),
            },
            Source::Squad { prefix, names, .. } => file_of(place, &format!("{prefix}{}", names[at])),
            Source::Race(_) => file_of(place, &place.split.to_string()),
            Source::ChoiceLines => file_of(place, ["train.jsonl", "dev.jsonl", "test.jsonl"][at]),
            Source::Words { .. } => file_of(place, ["train.txt", "dev.txt", "test.txt"][at]),
        }
    }

    /// The scope of the original's head variables, for example `classification_imdb`.
    pub fn original_scope(&self, cls_scope: &str) -> Option<String> {
        match (&self.answer, cls_scope) {
            (Answer::Class(_), "") => Some(format!("classification_{}", self.name)),
            (Answer::Class(_), scope) => Some(format!("classification_{scope}")),
            (Answer::Number, _) => Some(format!("regression_{}", self.name)),
            _ => None,
        }
    }
}

impl Custom {
    fn source(&self, train: &Place) -> Result<TextSource> {
        let file = train.file.clone();
        let of = |split: Split| match (&file, split) {
            (Some(file), Split::Train) => Ok(file.clone()),
            _ => {
                let found = ["tsv", "csv", "jsonl"].map(|e| train.dir.join(format!("{split}.{e}")));
                Ok::<_, Error>(found.iter().find(|path| path.exists()).unwrap_or(&found[0]).clone())
            }
        };
        let format = Format::of(&of(Split::Train)?)?;
        let column = |text: &str| match text.parse::<i64>() {
            Ok(-1) => table::LAST,
            Ok(index) if index >= 0 && format != Format::Jsonl => Column::Index(index as usize),
            _ => Column::Name(text.to_owned()),
        };
        let layout = Layout {
            format,
            header: !self.no_header && format != Format::Jsonl,
            text_a: column(self.text_a.as_deref().unwrap_or("text")),
            text_b: self.text_b.as_deref().map(column),
            label: Some(column(self.label.as_deref().unwrap_or("label"))),
            only: None,
        };
        let splits = [Split::Train, Split::Dev, Split::Test].map(|split| {
            of(split).map(|path| (split, path.strip_prefix(&train.dir).unwrap_or(&path).into(), layout.clone()))
        });
        let splits = splits.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(TextSource { splits, repair: texts::Repair::None, renamed: vec![] })
    }
}

fn check_labels(labels: &[String]) -> Result<()> {
    if labels.len() < 2 {
        let got = labels.join(", ");
        return Err(Error::config(format!(
            "a classifier needs at least two labels, but there are {got:?}; is a number meant (is_regression)?"
        )));
    }
    if labels.len() > 10_000 {
        let got = labels.len();
        return Err(Error::config(format!(
            "there are {got} different labels; is a number meant (is_regression), or another column?"
        )));
    }
    Ok(())
}

fn number(text: Option<&str>) -> Result<Option<usize>> {
    let parse = |text: &str| {
        text.parse().map_err(|_| Error::config(format!("columns of words are numbers from 0, but this is {text:?}")))
    };
    text.map(parse).transpose()
}

fn file_of(place: &Place, name: &str) -> PathBuf {
    place.file.clone().unwrap_or_else(|| place.dir.join(name))
}

fn text_metric(name: &str) -> &'static str {
    match name {
        "sts-b" => "eval_pearsonr",
        "cola" => "eval_matthews",
        _ => "eval_accuracy",
    }
}

/// All names that [`Task::named`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    texts::NAMES.into_iter().chain(OTHERS)
}

fn unknown(name: &str) -> Error {
    let advice = match near(name, names()).as_slice() {
        [] => format!("the tasks are {}", names().collect::<Vec<_>>().join(", ")),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    Error::config(format!("there is no task {name:?}: {advice}"))
}
