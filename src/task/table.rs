//! Tables of text: tab separated, comma separated, or a JSON object a line.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::example::{Remarks, read_text};
use crate::{Error, Result};

/// How rows and columns are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Tabs, no quotes.
    Tsv,
    /// Commas, standard quotes.
    Csv,
    /// A JSON object a line.
    Jsonl,
}

impl Format {
    /// The format that a file's name ends with.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("tsv" | "txt") => Ok(Format::Tsv),
            Some("csv") => Ok(Format::Csv),
            Some("jsonl" | "json" | "ndjson") => Ok(Format::Jsonl),
            _ => Err(Error::data(path, "the name must end in .tsv, .csv or .jsonl, which tells how it is read")),
        }
    }
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// Its number from 0.
    Index(usize),
    /// The last one, whichever that is: -1 in a file.
    Last(i64),
    /// Its name in the header, or its key.
    Name(String),
}

/// The last column.
pub const LAST: Column = Column::Last(-1);

/// Where texts and label lie in a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows and columns.
    pub format: Format,
    /// The first row holds names.
    pub header: bool,
    /// First text.
    pub text_a: Column,
    /// Second text.
    pub text_b: Option<Column>,
    /// Label, where there is one.
    pub label: Option<Column>,
    /// Only rows with this value in this column, as XNLI's languages.
    pub only: Option<(Column, String)>,
}

/// The cells of one row that a task wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    /// Line from 1.
    pub line: usize,
    /// Number of the row as the original counts: from 0, empty lines left out, the header included.
    pub row: usize,
    /// First text.
    pub text_a: String,
    /// Second text.
    pub text_b: Option<String>,
    /// Label.
    pub label: Option<String>,
}

/// A row with its line and its number.
type Row = (usize, usize, Vec<String>);

/// Reads the wanted cells of every row; rows too short for them are remarked on and left out.
///
/// # Errors
/// When the file cannot be read, is damaged, or has no such column.
pub fn read_table(path: &Path, layout: &Layout, remarks: &mut Remarks) -> Result<Vec<Cells>> {
    let text = read_text(path)?;
    if layout.format == Format::Jsonl {
        return read_lines(path, &text, layout, remarks);
    }
    let mut rows = match layout.format {
        Format::Csv => comma_rows(path, &text)?,
        _ => tab_rows(&text),
    };
    let header = layout.header.then(|| if rows.is_empty() { vec![] } else { rows.remove(0).2 });
    let find = |column: &Column| -> Result<Option<usize>> {
        match (column, &header) {
            (Column::Index(index), _) => Ok(Some(*index)),
            (Column::Last(_), _) => Ok(None),
            (Column::Name(name), Some(header)) => {
                let at = header.iter().position(|h| h.trim_start_matches('\u{feff}').trim() == name);
                let known = header.join(", ");
                at.map(Some).ok_or_else(|| {
                    Error::data(path, format!("line 1: there is no column {name:?}; the header has: {known}"))
                })
            }
            (Column::Name(name), None) => {
                Err(Error::data(path, format!("column {name:?} needs a header; count columns from 0 without one")))
            }
        }
    };
    let text_a = find(&layout.text_a)?;
    let text_b = layout.text_b.as_ref().map(&find).transpose()?;
    let label = layout.label.as_ref().map(&find).transpose()?;
    let only = layout.only.as_ref().map(|(column, value)| Ok::<_, Error>((find(column)?, value))).transpose()?;
    let mut cells = vec![];
    for (line, row, values) in rows {
        let get = |at: Option<usize>| at.map_or(values.last(), |at| values.get(at)).cloned();
        if let Some((at, value)) = &only
            && get(*at).as_ref() != Some(*value)
        {
            continue;
        }
        let wanted = [Some(text_a), text_b, label];
        if let Some(Some(missing)) = wanted.into_iter().flatten().find(|&at| get(at).is_none()) {
            let (got, needed) = (values.len(), missing + 1);
            remarks.skip(path, Some(line), format!("{needed} columns are needed, but this row has {got}"));
            continue;
        }
        let text_a = get(text_a).unwrap_or_default();
        cells.push(Cells { line, row, text_a, text_b: text_b.and_then(get), label: label.and_then(get) });
    }
    Ok(cells)
}

/// Rows of a tab separated file: no quotes, empty lines do not count.
fn tab_rows(text: &str) -> Vec<Row> {
    let lines = text.split('\n').enumerate().map(|(i, line)| (i + 1, line.strip_suffix('\r').unwrap_or(line)));
    let filled = lines.filter(|(_, line)| !line.is_empty());
    filled.enumerate().map(|(row, (line, text))| (line, row, text.split('\t').map(str::to_owned).collect())).collect()
}

fn comma_rows(path: &Path, text: &str) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut rows = vec![];
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(|e| Error::data(path, format!("this is no CSV: {e}")))?;
        let line = record.position().map_or(0, |p| p.line()) as usize;
        rows.push((line, row, record.iter().map(str::to_owned).collect()));
    }
    Ok(rows)
}

fn read_lines(path: &Path, text: &str, layout: &Layout, remarks: &mut Remarks) -> Result<Vec<Cells>> {
    let mut cells = vec![];
    for (row, (line, object)) in json_lines::<serde_json::Value>(path, text)?.into_iter().enumerate() {
        let get = |column: &Column| -> Option<String> {
            let Column::Name(name) = column else { return None };
            match object.get(name)? {
                serde_json::Value::String(text) => Some(text.clone()),
                serde_json::Value::Null => None,
                other => Some(other.to_string()),
            }
        };
        let wanted = [Some(&layout.text_a), layout.text_b.as_ref(), layout.label.as_ref()];
        if let Some(missing) = wanted.into_iter().flatten().find(|column| get(column).is_none()) {
            let what = match missing {
                Column::Name(name) => format!("there is no key {name:?}"),
                _ => "columns of JSON lines have names, not numbers".into(),
            };
            remarks.skip(path, Some(line), what);
            continue;
        }
        let text_a = get(&layout.text_a).unwrap_or_default();
        let (text_b, label) = (layout.text_b.as_ref().and_then(get), layout.label.as_ref().and_then(get));
        cells.push(Cells { line, row, text_a, text_b, label });
    }
    Ok(cells)
}

/// Values of a file with a JSON value a line, with their lines; blank lines do not count.
///
/// # Errors
/// When a line is no such value.
pub fn json_lines<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<Vec<(usize, T)>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let value = serde_json::from_str(line);
            value.map(|value| (i + 1, value)).map_err(|e| Error::data(path, format!("line {}: {e}", i + 1)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, bytes: &[u8], layout: &Layout) -> (Result<Vec<Cells>>, Remarks) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut remarks = Remarks::default();
        (read_table(&path, layout, &mut remarks), remarks)
    }
    fn layout(format: Format, header: bool, a: Column, label: Column) -> Layout {
        Layout { format, header, text_a: a, text_b: None, label: Some(label), only: None }
    }
    fn name(name: &str) -> Column {
        Column::Name(name.into())
    }

    #[test]
    fn tabs_know_no_quotes_and_number_filled_lines() {
        let tsv = layout(Format::Tsv, true, Column::Index(1), Column::Index(0));
        let (cells, remarks) = read("a.tsv", b"l\tt\r\n\n1\t\"a \"b\"\r\nshort\n0\tc", &tsv);
        let cells = cells.unwrap();
        assert_eq!((cells[0].line, cells[0].row, cells[0].text_a.as_str()), (3, 1, "\"a \"b\""));
        assert_eq!((cells[1].line, cells[1].row, cells[1].label.as_deref()), (5, 3, Some("0")));
        assert_eq!(remarks.skipped.len(), 1);
        assert!(remarks.skipped[0].to_string().ends_with("a.tsv:4: 2 columns are needed, but this row has 1"));
    }
    #[test]
    fn commas_and_lines_by_name() {
        let csv = layout(Format::Csv, true, name("text"), name("label"));
        let (cells, _) = read("a.csv", b"label,text\nx,\"a, \"\"b\"\"\nc\"\ny,d\n", &csv);
        let cells = cells.unwrap();
        assert_eq!((cells[0].text_a.as_str(), cells[0].line), ("a, \"b\"\nc", 2));
        assert_eq!((cells[1].text_a.as_str(), cells[1].line), ("d", 4));
        let jsonl = layout(Format::Jsonl, false, name("text"), name("label"));
        let (cells, remarks) = read("a.jsonl", b"{\"text\": \"a\", \"label\": 1}\n\n{\"text\": \"b\"}\n", &jsonl);
        assert_eq!(cells.unwrap()[0].label.as_deref(), Some("1"));
        assert_eq!((remarks.skipped[0].line, remarks.skipped[0].what.as_str()), (Some(3), "there is no key \"label\""));
        let (cells, _) = read("a.jsonl", b"{}\n{", &jsonl);
        assert!(cells.unwrap_err().to_string().contains("line 2: "));
    }
    #[test]
    fn wrong_files_are_sentences() {
        let csv = layout(Format::Csv, true, name("text"), name("label"));
        let (cells, _) = read("a.csv", b"label,texts\n", &csv);
        let sentence = cells.unwrap_err().to_string();
        assert!(sentence.contains("no column \"text\"; the header has: label, texts"), "{sentence}");
        let (cells, _) = read("a.csv", b"label,text\n1,a\xff\n", &csv);
        let sentence = cells.unwrap_err().to_string();
        assert!(sentence.contains("line 2 is not UTF-8: byte 0xff in column 4"), "{sentence}");
    }
}
