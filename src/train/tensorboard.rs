//! Scalars as TensorBoard event files: protocol buffers `Event` in TFRecord frames.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::data::tfrecord::append_record;
use crate::{Error, Result};

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
    path: PathBuf,
    file: File,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl EventWriter {
    /// Starts a file of its own in `directory`; TensorBoard joins the files of one directory by step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        let wall_time = now();
        // Nanoseconds keep runs apart that start within a second; TensorBoard asks for "tfevents" in the name only.
        let path = directory.join(format!("events.out.tfevents.{wall_time:.9}.xlnet"));
        let opened = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = opened.map_err(|e| Error::io("create", &path, e))?;
        let mut writer = EventWriter { path, file };
        let file_version = Some("brain.Event:2".to_owned());
        writer.append(&Event { wall_time, step: 0, file_version, summary: None })?;
        Ok(writer)
    }
    /// Appends the scalars of one step.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let scalar = |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_owned(), simple_value: Some(value as f32) };
        let summary = Some(Summary { value: values.iter().map(scalar).collect() });
        self.append(&Event { wall_time: now(), step: step as i64, file_version: None, summary })
    }
    /// A whole frame in one write, so that a reader never sees a part that later changes.
    fn append(&mut self, event: &Event) -> Result<()> {
        let mut frame = vec![];
        append_record(&mut frame, &event.encode_to_vec());
        self.file.write_all(&frame).map_err(|e| Error::io("write", &self.path, e))
    }
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tfrecord::RecordReader;

    #[test]
    fn events_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path()).unwrap();
        writer.scalars(7, &[("train/lr", 0.5), ("train/total_loss", 10.25)]).unwrap();
        let mut reader = RecordReader::open(writer.path()).unwrap();
        let first = Event::decode(reader.next_record().unwrap().unwrap()).unwrap();
        assert_eq!(first.file_version.as_deref(), Some("brain.Event:2"));
        let payload = reader.next_record().unwrap().unwrap().to_vec();
        let second = Event::decode(&payload[..]).unwrap();
        let values: Vec<_> = second.summary.unwrap().value.into_iter().map(|v| (v.tag, v.simple_value)).collect();
        assert_eq!(second.step, 7);
        assert_eq!(values, [("train/lr".into(), Some(0.5)), ("train/total_loss".into(), Some(10.25))]);
        assert!(reader.next_record().unwrap().is_none());
    }
    /// The bytes of a scalar as the format's definition spells them.
    #[test]
    fn wire_format() {
        let value = Scalar { tag: "a".into(), simple_value: Some(1.0) };
        let event =
            Event { wall_time: 0.0, step: 3, file_version: None, summary: Some(Summary { value: vec![value] }) };
        let expected = [0x10, 3, 0x2a, 10, 0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0x3f];
        assert_eq!(event.encode_to_vec(), expected);
    }
}
