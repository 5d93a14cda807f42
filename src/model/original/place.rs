//! Where a checkpoint of the original lies: what people name, and what is beside it.

use std::path::{Path, PathBuf};

use super::{CHECKPOINT_FILE, ORIGINAL_CONFIG_FILE};
use crate::atomic::directory_of;
use crate::model::tf_bundle::bundle_prefix;
use crate::{Error, Result};

/// The bundle that `named` means: one of its files or their common prefix, a directory with a `checkpoint` file or with
/// one bundle, or `<directory>/latest`; `None` when there is none.
///
/// # Errors
/// When a directory cannot be read, its `checkpoint` file names nothing that is there, or it holds several bundles and
/// none is named.
pub fn find_bundle(named: &Path) -> Result<Option<PathBuf>> {
    if named.is_dir() {
        return newest_bundle(named);
    }
    if let Some(prefix) = bundle_prefix(named) {
        return Ok(Some(prefix));
    }
    let latest = named.file_name().is_some_and(|name| name == "latest");
    match named.parent() {
        Some(directory) if latest && directory.is_dir() => newest_bundle(directory),
        _ => Ok(None),
    }
}

fn newest_bundle(directory: &Path) -> Result<Option<PathBuf>> {
    let note = directory.join(CHECKPOINT_FILE);
    if note.is_file() {
        let text = std::fs::read_to_string(&note).map_err(|e| Error::io("read", &note, e))?;
        let named = noted_checkpoint(&text)
            .ok_or_else(|| Error::data(&note, "names no checkpoint: it has no line model_checkpoint_path: \"...\""))?;
        // A directory that was moved still holds its files, whatever path it had.
        let moved = Path::new(&named).file_name().map(|name| directory.join(name));
        let places = [directory.join(&named)].into_iter().chain(moved);
        return match places.into_iter().find_map(|place| bundle_prefix(&place)) {
            Some(prefix) => Ok(Some(prefix)),
            None => Err(Error::data(&note, format!("names {named}, but there is no {named}.index"))),
        };
    }
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io("read", directory, e))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut prefixes: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "index")).map(|p| p.with_extension("")).collect();
    prefixes.sort();
    match &prefixes[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let names: Vec<_> = several.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy())).collect();
            Err(Error::data(directory, format!("holds several checkpoints ({}); name one of them", names.join(", "))))
        }
    }
}

/// The path in a `checkpoint` file, a protocol buffer in text form.
fn noted_checkpoint(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("model_checkpoint_path:"))?;
    let value = value.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some(value.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// The configuration beside a bundle; `None` when there is none.
pub fn config_beside(prefix: &Path) -> Option<PathBuf> {
    let directory = directory_of(prefix);
    [ORIGINAL_CONFIG_FILE, "config.json"].into_iter().map(|name| directory.join(name)).find(|path| path.is_file())
}
