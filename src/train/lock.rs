//! One run at a time in a directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Error, Result};

const LOCK_FILE: &str = ".lock";
/// A process that was killed holds its lock until the system has cleared it away, which a write in progress delays.
const PATIENCE: Duration = Duration::from_secs(3);

/// Keeps a directory for this process until it is dropped. The lock is the system's and dies with the process, however
/// that ends; the file stays, and says who holds the lock.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes `dir` for this process.
    ///
    /// # Errors
    /// When another run has it (the sentence names its process), or the lock's file cannot be opened.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = opened.map_err(|e| Error::io("open", &path, e))?;
        match patiently(&file) {
            Ok(()) => {
                // On a full disk the lock holds all the same; only its sentence is poorer then.
                let _ = file.set_len(0).and_then(|()| file.write_all(holder().as_bytes()));
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.lines().next().map(str::trim) {
                    Some(holder) if !holder.is_empty() => holder,
                    _ => "another process",
                };
                let what = format!("{holder} is training here; wait for its end, stop it, or use another directory");
                return Err(Error::data(dir, what));
            }
            Err(TryLockError::Error(e)) => {
                tracing::warn!("{} cannot be locked ({e}); see to it that no other run uses it", dir.display());
            }
        }
        Ok(RunLock { _file: file })
    }
}

fn patiently(file: &File) -> Result<(), TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 100),
            answer => return answer,
        }
    }
}

/// This process, with its machine where that is known: directories are shared over networks.
fn holder() -> String {
    let id = std::process::id();
    match std::fs::read_to_string("/proc/sys/kernel/hostname") {
        Ok(host) => format!("process {id} on {}\n", host.trim()),
        Err(_) => format!("process {id}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunLock::acquire(dir.path()).unwrap();
        let sentence = RunLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(sentence.contains(&format!("process {}", std::process::id())), "{sentence}");
        drop(first);
        // What an earlier holder left says nothing, however long it is.
        std::fs::write(dir.path().join(LOCK_FILE), "process 123456789123456789 on a machine of long ago\n").unwrap();
        let _second = RunLock::acquire(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap(), holder());
    }
}
