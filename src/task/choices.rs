//! Multiple choice: RACE, and any other as JSON lines.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::encoder::Encoder;
use super::example::{ChoiceExample, Remarks, read_text};
use super::feature::{Feature, Sequence, Target};
use super::table::json_lines;
use super::texts::{files_of, layout};
use crate::data::special::{CLS, SEP};
use crate::{Error, Result};

/// Which schools' exams of RACE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Levels {
    /// Both.
    #[default]
    All,
    /// Middle schools.
    Middle,
    /// High schools.
    High,
}

/// A RACE file.
#[derive(Deserialize)]
struct Passage {
    article: String,
    questions: Vec<String>,
    options: Vec<Vec<String>>,
    #[serde(default)]
    answers: Vec<String>,
}

/// Reads `{folder}/{middle,high}/*`; RACE calls its folders by the split.
///
/// # Errors
/// When a folder is missing, or a file is no RACE file.
pub fn read_race(folder: &Path, levels: Levels, remarks: &mut Remarks) -> Result<Vec<ChoiceExample>> {
    let wanted: &[&str] = match levels {
        Levels::All => &["middle", "high"],
        Levels::Middle => &["middle"],
        Levels::High => &["high"],
    };
    let mut examples = vec![];
    for level in wanted {
        for path in files_of(&folder.join(level), None)? {
            let text = read_text(&path)?;
            let passage: Passage = serde_json::from_str(&text).map_err(|e| {
                Error::data(
                    &path,
                    format!("this is no RACE passage: {e}; it needs article, questions, options, answers"),
                )
            })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for (i, question) in passage.questions.iter().enumerate() {
                let options = passage.options.get(i).map_or(&[][..], Vec::as_slice);
                if options.len() != 4 {
                    let got = options.len();
                    remarks.skip(&path, None, format!("question {i} must have 4 options, but has {got}"));
                    continue;
                }
                let answer = passage.answers.get(i).map(|a| a.bytes().next().unwrap_or(0).wrapping_sub(b'A'));
                if let Some(answer) = answer.filter(|&answer| answer > 3) {
                    let letter = char::from(answer.wrapping_add(b'A'));
                    remarks.skip(&path, None, format!("the answer of question {i} must be A to D, but is {letter:?}"));
                    continue;
                }
                examples.push(ChoiceExample {
                    id: format!("{level}/{name}#{i}"),
                    group: (*level).to_owned(),
                    context: passage.article.clone(),
                    choices: options.iter().map(|option| fill(question, option)).collect(),
                    label: answer.map(usize::from),
                });
            }
        }
    }
    Ok(examples)
}

/// The question with the option in its gap, or after it.
pub fn fill(question: &str, option: &str) -> String {
    if question.contains('_') { question.replace('_', option) } else { format!("{question} {option}") }
}

/// A line of a multiple choice in JSON lines.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Option<String>,
    context: String,
    #[serde(default)]
    question: Option<String>,
    choices: Vec<String>,
    #[serde(default)]
    label: Option<usize>,
}

/// Reads objects `{"context", "question", "choices", "label", "id"}`; question, label and id may be absent. Where there
/// is a question, a choice fills its gap `_` or follows it, as RACE's.
///
/// # Errors
/// When a line is no such object, or has another number of choices than the first, or `choices` when given.
pub fn read_lines(path: &Path, choices: Option<usize>, remarks: &mut Remarks) -> Result<Vec<ChoiceExample>> {
    let mut examples: Vec<ChoiceExample> = vec![];
    for (number, line) in json_lines::<Line>(path, &read_text(path)?)? {
        let expected = choices.or(examples.first().map(|e| e.choices.len())).unwrap_or(line.choices.len());
        let got = line.choices.len();
        if got != expected || got < 2 {
            let expected = expected.max(2);
            return Err(Error::data(
                path,
                format!("line {number}: {expected} choices are expected, but there are {got}"),
            ));
        }
        if let Some(label) = line.label.filter(|&label| label >= got) {
            return Err(Error::data(path, format!("line {number}: the label must be below {got}, but is {label}")));
        }
        if line.context.trim().is_empty() && line.question.as_ref().is_none_or(|q| q.trim().is_empty()) {
            remarks.skip(path, Some(number), "context and question are empty");
            continue;
        }
        let choices = match &line.question {
            Some(question) => line.choices.iter().map(|choice| fill(question, choice)).collect(),
            None => line.choices,
        };
        let id = line.id.unwrap_or_else(|| format!("{}", number - 1));
        examples.push(ChoiceExample { id, group: String::new(), context: line.context, choices, label: line.label });
    }
    Ok(examples)
}

/// `context SEP qa SEP CLS` for each choice. With `accumulate`, a context that fits keeps the tokens of earlier choices,
/// as the original's does by mistake.
///
/// # Errors
/// When a text cannot be encoded.
pub fn convert(
    example: &ChoiceExample,
    index: usize,
    encoder: &Encoder,
    max_seq_length: usize,
    max_qa_length: usize,
    accumulate: bool,
) -> Result<Feature> {
    let mut context = encoder.ids(&example.context)?;
    let mut sequences = vec![];
    for choice in &example.choices {
        let qa = encoder.ids(choice)?;
        let qa = &qa[qa.len().saturating_sub(max_qa_length)..];
        let room = max_seq_length - 3 - qa.len();
        let fits = context.len() <= room;
        let shown = &context[..context.len().min(room)];
        if qa.is_empty() {
            // The layout of a pair needs the second separator even then.
            let mut sequence = Sequence::default();
            sequence.extend(shown, 0);
            sequence.push(SEP, 0);
            sequence.push(SEP, 1);
            sequence.push(CLS, 2);
            sequences.push(sequence);
        } else {
            sequences.push(layout(shown, qa));
        }
        if fits && accumulate {
            context = sequences[sequences.len() - 1].ids.clone();
        }
    }
    let target = example.label.map_or(Target::None, Target::Class);
    Ok(Feature { example: index, sequences, target, window: None })
}
