//! What readers make of files, before any vocabulary is involved.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Something that was left out, or is odd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// The file.
    pub path: PathBuf,
    /// Line from 1, where the format has lines.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.what),
            None => write!(f, "{}: {}", self.path.display(), self.what),
        }
    }
}

/// Remarks of one reading or conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remarks {
    /// Examples that were left out.
    pub skipped: Vec<Remark>,
    /// Examples that were kept although something is odd about them.
    pub odd: Vec<Remark>,
}

impl Remarks {
    /// Notes an example that is left out.
    pub fn skip(&mut self, path: &Path, line: Option<usize>, what: impl Into<String>) {
        self.skipped.push(Remark { path: path.to_owned(), line, what: what.into() });
    }
    /// Notes an example that is kept.
    pub fn note(&mut self, path: &Path, line: Option<usize>, what: impl Into<String>) {
        self.odd.push(Remark { path: path.to_owned(), line, what: what.into() });
    }
    /// Adds those of another step.
    pub fn extend(&mut self, other: Remarks) {
        self.skipped.extend(other.skipped);
        self.odd.extend(other.odd);
    }
}

/// One text, or a pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TextExample {
    /// `train-17`, as the original counts.
    pub id: String,
    /// First text.
    pub text_a: String,
    /// Second text.
    pub text_b: Option<String>,
    /// Class or number.
    pub label: Label,
}

/// What is known about a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Label {
    /// Nothing.
    #[default]
    Unknown,
    /// Its class.
    Class(usize),
    /// Its number.
    Value(f64),
}

/// A text with several ways to go on, one of which is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoiceExample {
    /// Name in messages and predictions, for example `middle/1011.txt#0`.
    pub id: String,
    /// The group it is scored with besides the whole, for example `high`.
    pub group: String,
    /// What all choices share.
    pub context: String,
    /// Question and answer in one text, for each choice.
    pub choices: Vec<String>,
    /// The right one.
    pub label: Option<usize>,
}

/// Words with a tag each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TaggedExample {
    /// Line of its first word, from 1.
    pub line: usize,
    /// The words.
    pub words: Vec<String>,
    /// A tag for each, by number; empty when not known.
    pub tags: Vec<usize>,
}

/// A place in a paragraph.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its characters.
    pub text: String,
    /// Index of the first one in the context, in characters; CMRC 2018 does not know it of some.
    pub start: Option<usize>,
}

/// A question about a paragraph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Name in predictions.
    pub id: String,
    /// The question.
    pub question: String,
    /// Index of its paragraph.
    pub paragraph: usize,
    /// All right answers.
    pub answers: Vec<Answer>,
    /// The file says that there is none.
    pub impossible: bool,
}

/// Paragraphs with questions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Questions {
    /// Contexts.
    pub contexts: Vec<String>,
    /// Questions in the order of the file.
    pub questions: Vec<Question>,
}

/// Examples of any task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Examples {
    /// For classes and numbers.
    Texts(Vec<TextExample>),
    /// For choices.
    Choices(Vec<ChoiceExample>),
    /// For tags.
    Tagged(Vec<TaggedExample>),
    /// For spans.
    Questions(Questions),
}

impl Examples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Examples::Texts(all) => all.len(),
            Examples::Choices(all) => all.len(),
            Examples::Tagged(all) => all.len(),
            Examples::Questions(all) => all.questions.len(),
        }
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Name of an example.
    pub fn id(&self, index: usize) -> String {
        match self {
            Examples::Texts(all) => all[index].id.clone(),
            Examples::Choices(all) => all[index].id.clone(),
            Examples::Tagged(all) => format!("line {}", all[index].line),
            Examples::Questions(all) => all.questions[index].id.clone(),
        }
    }
    /// Keeps the first `count`.
    pub fn truncate(&mut self, count: usize) {
        match self {
            Examples::Texts(all) => all.truncate(count),
            Examples::Choices(all) => all.truncate(count),
            Examples::Tagged(all) => all.truncate(count),
            Examples::Questions(all) => all.questions.truncate(count),
        }
    }
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read, or is not UTF-8; the sentence names the line.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let (before, bad) = (&e.as_bytes()[..at], e.as_bytes()[at]);
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|&&b| b != b'\n').count() + 1;
        Error::data(path, format!("line {line} is not UTF-8: byte 0x{bad:02x} in column {column}; convert the file"))
    })
}
