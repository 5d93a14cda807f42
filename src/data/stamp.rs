//! Whether a file is still the one that it was.

use std::fs::Metadata;
use std::time::UNIX_EPOCH;

/// What tells that a file did not change: its length and time of change. `None` for pipes, which cannot be read twice.
pub(crate) type Stamp = Option<(u64, u64, u32)>;

/// The stamp of a file of which the system tells `metadata`.
pub(crate) fn stamp_of(metadata: &Metadata) -> Stamp {
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    metadata.is_file().then_some((metadata.len(), modified.as_secs(), modified.subsec_nanos()))
}
