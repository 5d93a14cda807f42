//! Checkpoints inside of zip files, as the released ones come.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zip::ZipArchive;

use crate::{Error, Result};

/// Unpacks a zip file into a temporary directory, which vanishes when it is dropped.
///
/// # Errors
/// When the file is damaged or leads outside of the directory, or the disk refuses.
pub(super) fn unpack(path: &Path) -> Result<TempDir> {
    let damaged = |e: &dyn std::fmt::Display| Error::data(path, format!("not a whole zip file: {e}"));
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let length = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(&e))?;
    // Weights hardly compress; what claims to is no checkpoint.
    let limit = archive.len() as u64 * 4096 + length.saturating_mul(64);
    let directory = tempfile::tempdir().map_err(|e| Error::io("create a temporary directory for", path, e))?;
    let mut written = 0;
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| damaged(&e))?;
        let name = member.enclosed_name().ok_or_else(|| damaged(&"a name in it leads elsewhere"))?;
        let target = directory.path().join(name);
        let io = |e| Error::io("unpack", &target, e);
        if member.is_dir() {
            std::fs::create_dir_all(&target).map_err(io)?;
        } else if member.is_file() {
            std::fs::create_dir_all(crate::atomic::directory_of(&target)).map_err(io)?;
            let mut out = File::create(&target).map_err(io)?;
            // Check sums of members are compared at their ends.
            written += io::copy(&mut (&mut member).take(limit - written + 1), &mut out).map_err(|e| damaged(&e))?;
            if written > limit {
                return Err(damaged(&format!("it unpacks to more than {limit} bytes")));
            }
        }
    }
    Ok(directory)
}

/// The bytes of the member called `name` in whichever directory of a zip file; `None` when there is none.
///
/// # Errors
/// When the file is damaged.
pub(super) fn member(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    const LARGEST: u64 = 256 << 20;
    let damaged = |e: &dyn std::fmt::Display| Error::data(path, format!("not a whole zip file: {e}"));
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(&e))?;
    for i in 0..archive.len() {
        let member = archive.by_index(i).map_err(|e| damaged(&e))?;
        if member.enclosed_name().is_some_and(|path| path.file_name().is_some_and(|file| file == name)) {
            let mut bytes = vec![];
            member.take(LARGEST).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The one directory of an unpacked archive that has files, or the archive itself; links are not followed.
pub(super) fn model_directory(root: &Path) -> Result<PathBuf> {
    let mut here = root.to_owned();
    loop {
        let entries = std::fs::read_dir(&here).map_err(|e| Error::io("read", &here, e))?;
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let model = paths.iter().any(|path| path.is_file());
        let folders: Vec<&PathBuf> = paths.iter().filter(|path| path.is_dir() && !path.ends_with("__MACOSX")).collect();
        match folders[..] {
            [one] if !model => here = one.clone(),
            _ => return Ok(here),
        }
    }
}
