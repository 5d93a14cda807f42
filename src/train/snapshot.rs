//! Checkpoints beside the training: tensors are copied between two steps, and a thread of its own writes the copy.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::checkpoint::{ModelDescription, Stored, set_memory_rows, tensor_files, write_checkpoint};
use super::ranks::Rows;
use super::state::TrainState;
use super::step::StepProgram;
use crate::backend::Executor;
use crate::model::tensor_file::Dtype;
use crate::tensor::TensorId;
use crate::{Error, Result};

/// All that a checkpoint holds, in this process's memory.
pub struct Snapshot {
    files: [(&'static str, Stored); 3],
    tensors: HashMap<TensorId, Vec<u8>>,
    model: ModelDescription,
    state: TrainState,
}

impl Snapshot {
    /// Copies parameters and moments from the device; `memory` is that of the whole batch.
    ///
    /// # Errors
    /// When the device fails.
    pub fn take(
        step: &StepProgram,
        exec: &mut dyn Executor,
        memory: Vec<Rows>,
        model: ModelDescription,
        state: TrainState,
    ) -> Result<Self> {
        let mut files = tensor_files(step, model.config.n_layer);
        set_memory_rows(&mut files, &memory);
        let mut tensors = HashMap::from_iter(memory);
        for (id, _) in files.iter().flat_map(|(_, stored)| stored) {
            if !tensors.contains_key(id) {
                let mut bytes = vec![0; step.program.tensor(*id).bytes()];
                exec.read(*id, &mut bytes)?;
                tensors.insert(*id, bytes);
            }
        }
        Ok(Snapshot { files, tensors, model, state })
    }
    /// Bytes of the tensors of one.
    pub fn bytes(step: &StepProgram) -> usize {
        let moments = step.update.iter().flat_map(|update| &update.trained).flat_map(|t| [t.m, t.v]);
        let stored = step.params.iter().chain(&step.memory).copied().chain(moments);
        stored.map(|id| step.program.tensor(id).bytes()).sum()
    }
    /// Updates done when it was taken.
    pub fn step(&self) -> u64 {
        self.state.step
    }
    /// Whether all its values are finite numbers.
    pub fn is_finite(&self) -> bool {
        let mut entries = self.files.iter().flat_map(|(_, stored)| stored);
        entries.all(|(id, entry)| {
            let bytes = &self.tensors[id];
            match entry.dtype {
                Dtype::F64 => bytes.as_chunks().0.iter().all(|&b| f64::from_le_bytes(b).is_finite()),
                _ => bytes.as_chunks().0.iter().all(|&b| f32::from_le_bytes(b).is_finite()),
            }
        })
    }
    /// Writes it as [`save_checkpoint`](super::checkpoint::save_checkpoint) does.
    ///
    /// # Errors
    /// When the disk refuses; everything that was there before is still there then, and nothing else.
    pub fn save(&self, dir: &Path, max_save: usize) -> Result<PathBuf> {
        let mut read = |id: TensorId, bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(&self.tensors[&id]);
            Ok(())
        };
        write_checkpoint(dir, &self.files, &mut read, &self.model, &self.state, max_save)
    }
}

/// How a save ended.
#[derive(Debug)]
pub struct Saved {
    /// Updates that it holds.
    pub step: u64,
    /// The checkpoint's directory.
    pub result: Result<PathBuf>,
}

/// Writes snapshots, one at a time.
#[derive(Debug, Default)]
pub struct Saver {
    writing: Option<(u64, JoinHandle<Result<PathBuf>>)>,
}

impl Saver {
    /// Starts writing `snapshot`, after everything in `logs` is on the disk: a checkpoint must not outlive the lines
    /// of log that led to it. Waits for a save in progress, whose end [`Saver::wait`] tells if asked before.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&mut self, snapshot: Snapshot, dir: &Path, max_save: usize, logs: Vec<File>) -> Result<()> {
        self.wait();
        let (step, dir) = (snapshot.step(), dir.to_owned());
        let write = move || {
            for log in logs {
                if let Err(e) = log.sync_data() {
                    tracing::warn!("a log may lose lines if the machine fails now: {e}");
                }
            }
            snapshot.save(&dir, max_save)
        };
        let thread = std::thread::Builder::new().name("xlnet-saver".into()).spawn(write);
        let thread = thread.map_err(|e| Error::device(format!("the system gives no thread to save with: {e}")))?;
        self.writing = Some((step, thread));
        Ok(())
    }
    /// How the save in progress ended; `None` when it has not yet, or there is none.
    pub fn poll(&mut self) -> Option<Saved> {
        if self.writing.as_ref().is_some_and(|(_, thread)| thread.is_finished()) { self.wait() } else { None }
    }
    /// Waits for the end of the save in progress.
    pub fn wait(&mut self) -> Option<Saved> {
        let (step, thread) = self.writing.take()?;
        let result = thread.join().unwrap_or_else(|_| Err(Error::device("the writer of checkpoints panicked")));
        Some(Saved { step, result })
    }
}

impl Drop for Saver {
    /// A checkpoint that is being written is worth waiting for.
    fn drop(&mut self) {
        self.wait();
    }
}
