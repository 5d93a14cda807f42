//! A run's checkpoints in time: which are due, which waits for its proof, which is being written, how the last one went.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::snapshot::{Saved, Saver, Snapshot};
use crate::{Error, Result};

/// A save that failed is tried again after this time, or when the next one is due.
const RETRY: Duration = Duration::from_secs(60);

/// How a save ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SaveEvent<'a> {
    /// A checkpoint is complete.
    Saved(&'a Path),
    /// It could not be written.
    Failed {
        /// Updates that it would have held.
        step: u64,
        /// Why.
        error: &'a Error,
        /// The newest checkpoint there is.
        kept: Option<&'a Path>,
    },
}

/// The saves of one run.
pub(crate) struct Saving {
    saver: Saver,
    /// Weights that no loss has vouched for yet: an update can ruin them although its own loss was usual. With the logs
    /// that led to them.
    unproven: Option<(Snapshot, Vec<File>)>,
    /// When the last save began.
    began: Instant,
    /// The step of the newest checkpoint, or of the one on its way.
    saved: Option<u64>,
    failed: bool,
    /// A save that is due waits for the end of a spike.
    pub waits: bool,
    checkpoint: Option<PathBuf>,
}

impl Saving {
    /// The saves of a run that goes on from `checkpoint`, or begins.
    pub fn new(checkpoint: Option<PathBuf>, step: u64) -> Self {
        Saving {
            saver: Saver::default(),
            unproven: None,
            began: Instant::now(),
            saved: checkpoint.is_some().then_some(step),
            failed: false,
            waits: false,
            checkpoint,
        }
    }
    /// The newest checkpoint, written or read.
    pub fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }
    /// Whether `step` is saved, or on its way.
    pub fn has(&self, step: u64) -> bool {
        self.saved == Some(step)
    }
    /// Whether steps or minutes ask for a save.
    pub fn is_due(&self, step: u64, save_steps: Option<u64>, save_minutes: f64) -> bool {
        let since = self.began.elapsed();
        let by_time = save_minutes > 0.0 && since.as_secs_f64() >= save_minutes * 60.0;
        save_steps.is_some_and(|every| step.is_multiple_of(every)) || by_time || self.failed && since >= RETRY
    }
    /// Notes that `step` is being saved, after the end of the save before.
    pub fn begin(&mut self, step: u64, observe: &mut dyn FnMut(SaveEvent)) {
        self.wait(observe); // never two at a time
        (self.began, self.saved, self.waits) = (Instant::now(), Some(step), false);
    }
    /// Keeps a snapshot until [`Saving::write`], or [`Saving::discard`].
    pub fn hold(&mut self, snapshot: Snapshot, logs: Vec<File>) {
        self.unproven = Some((snapshot, logs));
    }
    /// Begins to write the snapshot that is held, if one is.
    pub fn write(&mut self, dir: &Path, max_save: usize) -> Result<()> {
        match self.unproven.take() {
            Some((snapshot, logs)) => self.saver.start(snapshot, dir, max_save, logs),
            None => Ok(()),
        }
    }
    /// Drops the snapshot that is held: its weights are no good.
    pub fn discard(&mut self) {
        if self.unproven.take().is_some() {
            self.saved = None;
        }
    }
    /// Tells how the save in progress ended, if it has.
    pub fn poll(&mut self, observe: &mut dyn FnMut(SaveEvent)) {
        if let Some(saved) = self.saver.poll() {
            self.tell(saved, observe);
        }
    }
    /// Waits for the save in progress and tells how it ended.
    pub fn wait(&mut self, observe: &mut dyn FnMut(SaveEvent)) {
        if let Some(saved) = self.saver.wait() {
            self.tell(saved, observe);
        }
    }
    /// Takes in how a save ended.
    pub fn tell(&mut self, Saved { step, result }: Saved, observe: &mut dyn FnMut(SaveEvent)) {
        self.failed = result.is_err();
        match result {
            Ok(path) => {
                observe(SaveEvent::Saved(&path));
                self.checkpoint = Some(path);
            }
            Err(error) => {
                observe(SaveEvent::Failed { step, error: &error, kept: self.checkpoint.as_deref() });
                self.saved = None;
            }
        }
    }
    /// The newest checkpoint that is any good, in words; waits for the save in progress.
    pub fn last_good(&mut self) -> String {
        self.discard();
        self.wait(&mut |_| ());
        match &self.checkpoint {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".into(),
        }
    }
}
