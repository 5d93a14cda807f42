//! Token classification in CoNLL columns: a word a line, a blank line between sentences.

use std::path::Path;

use super::encoder::Encoder;
use super::example::{Remarks, TaggedExample, read_text};
use super::feature::{Feature, Sequence, Target};
use crate::data::special::{CLS, SEP};
use crate::{Error, Result};

/// Columns from 0; the tag is the last one when absent.
pub type Columns = (usize, Option<usize>);

/// A sentence as text: the line of its first word, and words with their tags.
type Sentence = (usize, Vec<(String, Option<String>)>);

fn sentences(path: &Path, (word, tag): Columns, labelled: bool) -> Result<Vec<Sentence>> {
    let mut all: Vec<Sentence> = vec![];
    let mut open = false;
    for (i, line) in read_text(path)?.lines().enumerate() {
        let cells: Vec<&str> = line.split_whitespace().collect();
        if cells.is_empty() || cells[0] == "-DOCSTART-" {
            open = false;
            continue;
        }
        let text = cells.get(word).ok_or_else(|| short(path, i + 1, word, cells.len()))?;
        let at = tag.unwrap_or(cells.len() - 1);
        let tag = cells.get(at).filter(|_| at != word).map(|&tag| tag.to_owned());
        if labelled && tag.is_none() {
            return Err(short(path, i + 1, at.max(word + 1), cells.len()));
        }
        if !open {
            all.push((i + 1, vec![]));
            open = true;
        }
        if let Some((_, words)) = all.last_mut() {
            words.push(((*text).to_owned(), tag));
        }
    }
    Ok(all)
}

fn short(path: &Path, line: usize, column: usize, got: usize) -> Error {
    Error::data(path, format!("line {line}: column {column} is needed, but there are {got} columns"))
}

/// All tags of a file, sorted, `O` first.
///
/// # Errors
/// When the file is missing or a line is too short.
pub fn labels(path: &Path, columns: Columns) -> Result<Vec<String>> {
    let sentences = sentences(path, columns, true)?;
    let tags = sentences.into_iter().flat_map(|(_, words)| words).filter_map(|(_, tag)| tag);
    let mut tags: Vec<String> = tags.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    tags.sort_by_key(|tag| (tag != "O", tag.clone()));
    Ok(tags)
}

/// Reads sentences.
///
/// # Errors
/// When the file is missing, a line is too short or a tag is unknown.
pub fn read(
    path: &Path,
    columns: Columns,
    labels: &[String],
    labelled: bool,
    remarks: &mut Remarks,
) -> Result<Vec<TaggedExample>> {
    let mut examples = vec![];
    for (line, words) in sentences(path, columns, labelled)? {
        let mut example = TaggedExample { line, ..TaggedExample::default() };
        for (offset, (word, tag)) in words.into_iter().enumerate() {
            let tag = tag.map(|tag| {
                labels.iter().position(|label| *label == tag).ok_or_else(|| {
                    let (line, known) = (line + offset, labels.join(", "));
                    Error::data(path, format!("line {line}: the tag must be one of {known}, but is {tag:?}"))
                })
            });
            match tag {
                Some(Ok(tag)) => example.tags.push(tag),
                Some(Err(error)) if labelled => return Err(error),
                _ => {}
            }
            example.words.push(word);
        }
        if example.tags.len() != example.words.len() {
            example.tags.clear();
        }
        examples.push(example);
    }
    if examples.is_empty() {
        remarks.note(path, None, "there are no sentences in this file");
    }
    Ok(examples)
}

/// Pieces of the words, then `SEP CLS`; the first piece of a word has its tag, other positions have -1. Words that do
/// not fit are cut off and remarked on.
///
/// # Errors
/// When a word cannot be encoded.
pub fn convert(
    example: &TaggedExample,
    index: usize,
    encoder: &Encoder,
    max_seq_length: usize,
) -> Result<(Feature, Option<String>)> {
    let mut sequence = Sequence::default();
    let mut tags = vec![];
    let mut cut = None;
    for (i, word) in example.words.iter().enumerate() {
        let mut ids = encoder.ids(word)?;
        if ids.is_empty() {
            ids.push(crate::data::special::UNK); // the cleaning left nothing, but the word has a tag
        }
        if sequence.len() + ids.len() > max_seq_length - 2 {
            let (line, lost) = (example.line + i, example.words.len() - i);
            cut = Some(format!(
                "the last {lost} words of the sentence, from line {line}, do not fit {max_seq_length} tokens"
            ));
            break;
        }
        tags.push(example.tags.get(i).map_or(0, |&tag| tag as i32));
        tags.resize(sequence.len() + ids.len(), -1);
        sequence.extend(&ids, 0);
    }
    sequence.push(SEP, 0);
    sequence.push(CLS, 2);
    tags.resize(sequence.len(), -1);
    Ok((Feature { example: index, sequences: vec![sequence], target: Target::Tokens(tags), window: None }, cut))
}
