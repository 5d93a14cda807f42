//! Tasks over single texts and pairs: where each has its files and columns, and how they become features.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::encoder::Encoder;
use super::example::{Label, Remarks, TextExample, read_text};
use super::feature::{Feature, Sequence, Target};
use super::table::{Cells, Column, Format, LAST, Layout, read_table};
use crate::data::record_info::Split;
use crate::data::special::{CLS, SEP};
use crate::{Error, Result};

/// What happens to a text between file and tokeniser, besides the usual cleaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Nothing.
    None,
    /// ASCII spaces go: XNLI's Chinese is segmented into words.
    NoSpaces,
    /// Doubled and escaped quotes become quotes: Yelp.
    Quotes,
}

/// Files of a task over texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextSource {
    /// Files of train, dev and test with their columns; no files means folders of texts, one a class (IMDB).
    pub splits: Vec<(Split, PathBuf, Layout)>,
    /// What is repaired.
    pub repair: Repair,
    /// Labels that are written in two ways: this one is the second.
    pub renamed: Vec<(String, String)>,
}

/// One of the published tasks: labels (none for a number) and files.
pub fn named(name: &str) -> Option<(Vec<String>, TextSource)> {
    use Column::Index;
    let labels = |labels: &[&str]| labels.iter().map(|&l| l.to_owned()).collect::<Vec<_>>();
    let tsv = |header: bool, a: usize, b: Option<usize>, label: Option<Column>| Layout {
        format: Format::Tsv,
        header,
        text_a: Index(a),
        text_b: b.map(Index),
        label,
        only: None,
    };
    let source = |splits: Vec<(Split, &str, Layout)>| TextSource {
        splits: splits.into_iter().map(|(split, file, layout)| (split, file.into(), layout)).collect(),
        repair: Repair::None,
        renamed: vec![],
    };
    // Train, dev and test of GLUE; a test set has no labels.
    let glue = |a: usize, b: Option<usize>, label: Column, test: (usize, Option<usize>), names: [&str; 3]| {
        source(vec![
            (Split::Train, names[0], tsv(true, a, b, Some(label.clone()))),
            (Split::Dev, names[1], tsv(true, a, b, Some(label))),
            (Split::Test, names[2], tsv(true, test.0, test.1, None)),
        ])
    };
    let usual = ["train.tsv", "dev.tsv", "test.tsv"];
    let nli = ["contradiction", "entailment", "neutral"];
    let entailment = ["entailment", "not_entailment"];
    Some(match name {
        "mnli_matched" | "mnli_mismatched" => {
            let kind = name.trim_start_matches("mnli_");
            let (dev, test) = (format!("dev_{kind}.tsv"), format!("test_{kind}.tsv"));
            (labels(&nli), glue(8, Some(9), LAST, (8, Some(9)), ["train.tsv", &dev, &test]))
        }
        "sts-b" => (vec![], glue(7, Some(8), Index(9), (7, Some(8)), usual)),
        "cola" => {
            let (known, test) = (tsv(false, 3, None, Some(Index(1))), tsv(true, 1, None, None));
            let splits = vec![
                (Split::Train, "train.tsv", known.clone()),
                (Split::Dev, "dev.tsv", known),
                (Split::Test, "test.tsv", test),
            ];
            (labels(&["0", "1"]), source(splits))
        }
        "sst-2" => (labels(&["0", "1"]), glue(0, None, Index(1), (1, None), usual)),
        "mrpc" => (labels(&["0", "1"]), glue(3, Some(4), Index(0), (3, Some(4)), usual)),
        "qqp" => (labels(&["0", "1"]), glue(3, Some(4), Index(5), (1, Some(2)), usual)),
        "qnli" | "rte" => (labels(&entailment), glue(1, Some(2), Index(3), (1, Some(2)), usual)),
        "imdb" => (labels(&["neg", "pos"]), source(vec![])),
        "yelp5" => {
            let csv = Layout {
                format: Format::Csv,
                header: false,
                text_a: Index(1),
                text_b: None,
                label: Some(Index(0)),
                only: None,
            };
            let splits = vec![(Split::Train, "train.csv", csv.clone()), (Split::Dev, "test.csv", csv)];
            let source = TextSource { repair: Repair::Quotes, ..source(splits) };
            (labels(&["1", "2", "3", "4", "5"]), source)
        }
        "xnli" => {
            let chinese = |label: bool| Layout {
                only: Some((Index(0), "zh".into())),
                ..tsv(true, 6, Some(7), label.then_some(Index(1)))
            };
            let splits = vec![
                (Split::Train, "multinli/multinli.train.zh.tsv", tsv(true, 0, Some(1), Some(Index(2)))),
                (Split::Dev, "xnli.dev.tsv", chinese(true)),
                (Split::Test, "xnli.test.tsv", chinese(true)),
            ];
            let renamed = vec![("contradictory".into(), "contradiction".into())];
            (labels(&nli), TextSource { repair: Repair::NoSpaces, renamed, ..source(splits) })
        }
        "csc" => {
            let layout = tsv(true, 1, None, Some(Index(0)));
            let file = |split, file| (split, file, layout.clone());
            let splits = [(Split::Train, "train.tsv"), (Split::Dev, "dev.tsv"), (Split::Test, "test.tsv")];
            (labels(&["0", "1"]), source(splits.map(|(split, name)| file(split, name)).to_vec()))
        }
        "csv" => {
            let layout = Layout {
                format: Format::Csv,
                header: true,
                text_a: Index(0),
                text_b: None,
                label: Some(Index(1)),
                only: None,
            };
            let splits = [(Split::Train, "train.csv"), (Split::Dev, "dev.csv"), (Split::Test, "test.csv")];
            (labels(&["0", "1"]), source(splits.map(|(split, name)| (split, name, layout.clone())).to_vec()))
        }
        _ => return None,
    })
}

/// The published tasks over texts.
pub const NAMES: [&str; 14] = [
    "mnli_matched",
    "mnli_mismatched",
    "sts-b",
    "cola",
    "sst-2",
    "mrpc",
    "qqp",
    "qnli",
    "rte",
    "imdb",
    "yelp5",
    "xnli",
    "csc",
    "csv",
];

impl TextSource {
    /// File and columns of a split; `file` replaces the published name. `None` for folders of texts.
    ///
    /// # Errors
    /// When the task has no such split.
    pub fn file(&self, dir: &Path, split: Split, file: Option<&Path>) -> Result<Option<(PathBuf, Layout)>> {
        if self.splits.is_empty() {
            return Ok(None);
        }
        let found = self.splits.iter().find(|(known, _, _)| *known == split);
        match (found, file) {
            (Some((_, _, layout)), Some(file)) => Ok(Some((file.to_owned(), layout.clone()))),
            (Some((_, name, layout)), None) => Ok(Some((dir.join(name), layout.clone()))),
            (None, Some(file)) => {
                let layout = &self.splits.last().ok_or_else(|| no_split(split))?.2;
                Ok(Some((file.to_owned(), layout.clone())))
            }
            (None, None) => Err(no_split(split)),
        }
    }

    /// Reads the examples of a split; `labels` is empty for numbers. A label that does not stand in the file is
    /// [`Label::Unknown`], unless `labelled` asks for one.
    ///
    /// # Errors
    /// When a file is missing or damaged, or a label is unknown.
    pub fn read(
        &self,
        place: &super::Place,
        labels: &[String],
        labelled: bool,
        remarks: &mut Remarks,
    ) -> Result<Vec<TextExample>> {
        let Some((path, mut layout)) = self.file(&place.dir, place.split, place.file.as_deref())? else {
            return read_folders(&place.dir, place.split, labels, remarks);
        };
        if !labelled && !has_labels(&path, &layout) {
            layout.label = None;
        }
        let mut examples = vec![];
        for cells in read_table(&path, &layout, remarks)? {
            let id = match self.repair {
                Repair::Quotes => cells.row.to_string(), // Yelp's
                _ => format!("{}-{}", place.split, cells.row),
            };
            let label = match &cells.label {
                None => Label::Unknown,
                Some(text) => self.label(&path, cells.line, text, labels)?,
            };
            let Cells { line, text_a, text_b, .. } = cells;
            let example =
                TextExample { id, text_a: self.repair(text_a), text_b: text_b.map(|b| self.repair(b)), label };
            if example.text_a.trim().is_empty() && example.text_b.as_ref().is_none_or(|b| b.trim().is_empty()) {
                remarks.skip(&path, Some(line), "the text is empty");
            } else {
                examples.push(example);
            }
        }
        Ok(examples)
    }

    fn repair(&self, text: String) -> String {
        match self.repair {
            Repair::None => text,
            Repair::NoSpaces => text.replace(' ', ""),
            Repair::Quotes => text.replace("\"\"", "\"").replace("\\\"", "\""),
        }
    }

    fn label(&self, path: &Path, line: usize, text: &str, labels: &[String]) -> Result<Label> {
        if labels.is_empty() {
            return match text.trim().parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Label::Value(value)),
                _ => Err(Error::data(path, format!("line {line}: the label must be a number, but is {text:?}"))),
            };
        }
        let text = self.renamed.iter().find(|(from, _)| from == text).map_or(text, |(_, to)| to);
        labels.iter().position(|label| label == text).map(Label::Class).ok_or_else(|| {
            let known = labels.join(", ");
            Error::data(path, format!("line {line}: the label must be one of {known}, but is {text:?}"))
        })
    }

    /// All labels that stand in the file of a split, sorted.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn labels(&self, place: &super::Place) -> Result<Vec<String>> {
        let Some((path, layout)) = self.file(&place.dir, place.split, place.file.as_deref())? else {
            return Ok(vec![]);
        };
        let cells = read_table(&path, &layout, &mut Remarks::default())?;
        let all: std::collections::BTreeSet<String> = cells.into_iter().filter_map(|c| c.label).collect();
        Ok(all.into_iter().collect())
    }
}

fn no_split(split: Split) -> Error {
    Error::config(format!("this task has no {split} set; name the file with predict_file"))
}

/// Whether the label's column is there at all: a file to predict need not have it.
fn has_labels(path: &Path, layout: &Layout) -> bool {
    let mut remarks = Remarks::default();
    read_table(path, layout, &mut remarks).is_ok_and(|cells| !cells.is_empty() && remarks.skipped.is_empty())
}

/// IMDB: a folder for each class, a file for each text; dev is the folder `test`.
fn read_folders(dir: &Path, split: Split, labels: &[String], remarks: &mut Remarks) -> Result<Vec<TextExample>> {
    let folder = match split {
        Split::Train => "train",
        Split::Dev => "test",
        Split::Test => return Err(no_split(split)),
    };
    let mut examples = vec![];
    for (class, label) in labels.iter().enumerate() {
        for path in files_of(&dir.join(folder).join(label), Some("txt"))? {
            let text = read_text(&path)?.trim().replace("<br />", " ");
            if text.is_empty() {
                remarks.skip(&path, None, "the text is empty");
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let id = format!("{folder}/{label}/{name}");
            examples.push(TextExample { id, text_a: text, text_b: None, label: Label::Class(class) });
        }
    }
    Ok(examples)
}

/// Files of a folder in the order of their names.
///
/// # Errors
/// When the folder cannot be read or has none.
pub fn files_of(folder: &Path, extension: Option<&str>) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && extension.is_none_or(|e| path.to_string_lossy().ends_with(e)));
    files.sort();
    if files.is_empty() {
        return Err(Error::data(folder, "there are no files here"));
    }
    Ok(files)
}

/// `A SEP CLS` or `A SEP B SEP CLS`, cut to `max_seq_length`: the longer of a pair loses its end first.
///
/// # Errors
/// When a text cannot be encoded.
pub fn convert(example: &TextExample, index: usize, encoder: &Encoder, max_seq_length: usize) -> Result<Feature> {
    let mut a = encoder.ids(&example.text_a)?;
    let mut b = match &example.text_b {
        Some(text) => encoder.ids(text)?,
        None => vec![],
    };
    if b.is_empty() {
        a.truncate(max_seq_length - 2);
    } else {
        while a.len() + b.len() > max_seq_length - 3 {
            if a.len() > b.len() {
                a.pop()
            } else {
                b.pop()
            };
        }
    }
    let target = match example.label {
        Label::Unknown => Target::None,
        Label::Class(class) => Target::Class(class),
        Label::Value(value) => Target::Value(value),
    };
    Ok(Feature { example: index, sequences: vec![layout(&a, &b)], target, window: None })
}

/// Tokens and segments of a text or a pair.
pub fn layout(a: &[i32], b: &[i32]) -> Sequence {
    let mut sequence = Sequence::default();
    sequence.extend(a, 0);
    sequence.push(SEP, 0);
    if !b.is_empty() {
        sequence.extend(b, 1);
        sequence.push(SEP, 1);
    }
    sequence.push(CLS, 2);
    sequence
}
