//! Files that appear whole or not at all.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

const TEMPORARY: &str = ".tmp-";

/// A temporary file in the directory of `path`, so that the final rename cannot cross file systems.
pub(crate) fn temporary_beside(path: &Path) -> Result<NamedTempFile> {
    let directory = directory_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    public(&mut builder, 0o666);
    builder.tempfile_in(directory).map_err(|e| Error::io("create a file in", directory, e))
}

/// The directory that holds `path`.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Lets the user's umask decide who may read the result; temporary files are private by default.
pub(crate) fn public(builder: &mut tempfile::Builder<'_, '_>, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = (builder, mode);
}

/// A file under construction: it takes its name at [`AtomicFile::commit`] and vanishes when dropped before.
pub(crate) struct AtomicFile {
    out: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts the file that will become `path`, in the same directory so that the rename cannot cross file systems.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        Ok(Self { out: BufWriter::with_capacity(1 << 20, temporary_beside(path)?), path: path.to_owned() })
    }

    /// Appends `bytes`; errors name the final path.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    /// Gives the file its name, replacing what was there.
    pub(crate) fn commit(self) -> Result<()> {
        let fail = |e: io::Error| Error::io("write", &self.path, e);
        let file = self.out.into_inner().map_err(|e| fail(e.into_error()))?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&self.path).map_err(|e| fail(e.error))?;
        sync_directory(directory_of(&self.path))
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    // Windows cannot open directories as files, and needs no such call.
    #[cfg(unix)]
    match std::fs::File::open(dir).and_then(|file| file.sync_all()) {
        // Some network file systems cannot sync directories.
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            return Err(Error::io("sync", dir, e));
        }
        _ => {}
    }
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Removes the temporary files that a killed process left in `dir`. Nobody else may write there meanwhile.
pub(crate) fn remove_temporaries(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) && entry.file_type().is_ok_and(|t| t.is_file()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
