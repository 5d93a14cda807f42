//! Scalars as TensorBoard event files: protocol buffers `Event` in TFRecord frames.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::append_file::AppendFile;
use crate::data::tfrecord::{RecordReader, append_record};
use crate::{Error, Result};

/// What the names of our files begin and end with; TensorBoard asks for "tfevents" in the name only.
const NAME: (&str, &str) = ("events.out.tfevents.", ".xlnet");

/// `tensorflow.Event`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64, // seconds since 1970
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}
/// `tensorflow.SessionLog`.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32, // 1 is START
}
/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}
/// `tensorflow.Summary.Value` with a number.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Appends scalars to one event file.
#[derive(Debug)]
pub struct EventWriter {
    file: AppendFile,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl EventWriter {
    /// Starts a file of its own in `directory` for a run that has done `step` updates; TensorBoard joins the files of
    /// one directory by step. Events of later steps are of a future that is run again: they are cut from the older
    /// files, and a TensorBoard that has shown them already is told to forget them.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn open(directory: &Path, step: u64) -> Result<Self> {
        for path in event_files(directory)? {
            cut(&path, step)?;
        }
        let wall_time = now();
        // Nanoseconds keep runs apart that start within a second.
        let path = directory.join(format!("{}{wall_time:.9}{}", NAME.0, NAME.1));
        let mut writer = EventWriter { file: AppendFile::open(&path)? };
        let file_version = Some("brain.Event:2".to_owned());
        writer.append(&Event { wall_time, file_version, ..Event::default() })?;
        if step > 0 {
            let session_log = Some(SessionLog { status: 1 });
            writer.append(&Event { wall_time, step: step as i64 + 1, session_log, ..Event::default() })?;
        }
        Ok(writer)
    }
    /// Appends the scalars of one step. Those that fail are kept, and appended with the next.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let scalar = |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_owned(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: values.iter().map(scalar).collect() });
        self.append(&Event { wall_time: now(), step: step as i64, summary, ..Event::default() })
    }
    fn append(&mut self, event: &Event) -> Result<()> {
        let mut frame = vec![];
        append_record(&mut frame, &event.encode_to_vec());
        self.file.append(&frame)
    }
    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
    pub(super) fn file(&mut self) -> &mut AppendFile {
        &mut self.file
    }
}

/// A number of a run at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalarEvent {
    /// Updates done.
    pub step: u64,
    /// What it is.
    pub tag: String,
    /// The number.
    pub value: f32,
}

/// All scalars of an event file, in order.
///
/// # Errors
/// When the file is damaged or holds something else.
pub fn read_scalars(path: &Path) -> Result<Vec<ScalarEvent>> {
    let mut reader = RecordReader::open(path)?;
    let mut found = vec![];
    while let Some(payload) = reader.next_record()? {
        let event = Event::decode(payload).map_err(|e| Error::data(path, format!("holds no events: {e}")))?;
        for Scalar { tag, simple_value } in event.summary.into_iter().flat_map(|summary| summary.value) {
            found.extend(simple_value.map(|value| ScalarEvent { step: event.step as u64, tag, value }));
        }
    }
    Ok(found)
}

/// Our event files in `directory`.
///
/// # Errors
/// When the directory cannot be read.
pub fn event_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io("read", directory, e);
    let mut found = vec![];
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(NAME.0) && name.ends_with(NAME.1)) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Cuts a file of a run that has ended before its first event after `step`, or before its first damaged one, such as
/// one that a power failure tore. The file itself stays, for a TensorBoard that reads it now; one without scalars goes.
fn cut(path: &Path, step: u64) -> Result<()> {
    let mut reader = RecordReader::open(path)?;
    let (mut kept, mut scalars) = (0, 0);
    while let Ok(Some(payload)) = reader.next_record() {
        let Ok(event) = Event::decode(payload) else { break };
        let values = event.summary.map_or(0, |summary| summary.value.len());
        if values > 0 && event.step > step as i64 {
            break;
        }
        kept = reader.offset();
        scalars += values;
    }
    if scalars == 0 {
        return std::fs::remove_file(path).map_err(|e| Error::io("remove", path, e));
    }
    let io = |e| Error::io("write", path, e);
    let file: File = OpenOptions::new().write(true).open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() > kept { file.set_len(kept).map_err(io) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(step: u64, tag: &str, value: f32) -> ScalarEvent {
        ScalarEvent { step, tag: tag.into(), value }
    }
    fn steps(directory: &Path) -> Vec<u64> {
        let all = event_files(directory).unwrap();
        let mut steps: Vec<u64> = all.iter().flat_map(|path| read_scalars(path).unwrap()).map(|e| e.step).collect();
        steps.sort_unstable();
        steps
    }

    #[test]
    fn events_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 0).unwrap();
        writer.scalars(7, &[("train/lr", 0.5), ("train/total_loss", 10.25)]).unwrap();
        let mut reader = RecordReader::open(writer.path()).unwrap();
        let first = Event::decode(reader.next_record().unwrap().unwrap()).unwrap();
        assert_eq!(first.file_version.as_deref(), Some("brain.Event:2"));
        let expected = [scalar(7, "train/lr", 0.5), scalar(7, "train/total_loss", 10.25)];
        assert_eq!(read_scalars(writer.path()).unwrap(), expected);
    }
    #[test]
    fn a_resumed_run_cuts_what_it_runs_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::open(dir.path(), 0).unwrap();
        for step in 1..=6 {
            writer.scalars(step, &[("train/lr", 0.5)]).unwrap();
        }
        let old = writer.path().to_owned();
        let whole = std::fs::read(&old).unwrap();
        let mut writer = EventWriter::open(dir.path(), 4).unwrap();
        assert_eq!(steps(dir.path()), [1, 2, 3, 4]);
        writer.scalars(5, &[("train/lr", 0.5)]).unwrap();
        assert_eq!(steps(dir.path()), [1, 2, 3, 4, 5]);
        let mut reader = RecordReader::open(writer.path()).unwrap();
        reader.next_record().unwrap();
        let start = Event::decode(reader.next_record().unwrap().unwrap()).unwrap();
        assert_eq!((start.step, start.session_log), (5, Some(SessionLog { status: 1 })));
        // Torn or damaged anywhere: what is whole before stays, and the file can be read again.
        std::fs::remove_file(writer.path()).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            for bytes in [&whole[..at], &flipped] {
                std::fs::write(&old, bytes).unwrap();
                let empty = EventWriter::open(dir.path(), 6).unwrap().path().to_owned();
                let kept = steps(dir.path());
                assert_eq!(kept, (1..=kept.len() as u64).collect::<Vec<_>>());
                assert!(kept.len() >= (at * 6 / whole.len()).saturating_sub(1), "{at}: {kept:?}");
                std::fs::remove_file(empty).unwrap();
            }
        }
        // A start without a single event leaves nothing behind.
        std::fs::remove_file(&old).ok();
        for _ in 0..3 {
            EventWriter::open(dir.path(), 0).unwrap();
        }
        assert_eq!(event_files(dir.path()).unwrap().len(), 1);
    }
    /// The bytes of a scalar as the format's definition spells them.
    #[test]
    fn wire_format() {
        let value = Scalar { tag: "a".into(), simple_value: Some(1.0) };
        let event = Event { step: 3, summary: Some(Summary { value: vec![value] }), ..Event::default() };
        let expected = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0x3f];
        assert_eq!(event.encode_to_vec(), expected);
    }
}
