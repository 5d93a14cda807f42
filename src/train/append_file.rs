//! Logs on disks that may be full: whole records or nothing, and what did not fit comes later.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A file that grows by whole records.
#[derive(Debug)]
pub(super) struct AppendFile {
    path: PathBuf,
    file: File,
    /// Bytes of whole records in the file.
    length: u64,
    /// Records that the disk did not take yet.
    pending: Vec<u8>,
}

impl AppendFile {
    /// Opens or creates a file to append to.
    pub fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.map_err(|e| Error::io("write", path, e))?;
        let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        Ok(AppendFile { path: path.to_owned(), file, length, pending: vec![] })
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Appends a record and those that failed before. One that fails is kept, and no part of it stays in the file.
    pub fn append(&mut self, record: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(record);
        self.flush()
    }
    /// Appends what failed before.
    pub fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // One write a record where the disk plays along, so that a kill cannot cut it.
        match self.file.write_all(&self.pending) {
            Ok(()) => {
                self.length += self.pending.len() as u64;
                self.pending.clear();
                Ok(())
            }
            Err(e) => {
                let _ = self.file.set_len(self.length);
                Err(Error::io("write", &self.path, e))
            }
        }
    }
    /// A handle by which another thread can wait until the records are on the disk.
    pub fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }
}
