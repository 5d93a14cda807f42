//! Checkpoints: directories `step-<n>` that are also Hugging Face model directories.
//!
//! | file | content |
//! |---|---|
//! | `model.safetensors`, `config.json` | the model, as `transformers` reads it |
//! | `optimizer.safetensors` | `adam_m/<name>`, `adam_v/<name>` for every trained parameter |
//! | `memory.safetensors` | `memory/<layer>` |
//! | `state.json` | [`TrainState`], and the SHA-256 of the files above |
//! | `state.json.sha256` | the SHA-256 of `state.json`, as `sha256sum -c` reads it |
//!
//! A directory takes its name when all of it is on the disk, so one with such a name is whole unless the disk damaged
//! it later; hashes tell.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::export::MASK;
use super::ranks::Rows;
use super::state::{FORMAT_VERSION, StateFile, TrainState};
use super::step::StepProgram;
use crate::atomic::{public, sync_directory};
use crate::backend::Executor;
use crate::config::XlnetConfig;
use crate::model::hugging_face::{CONFIG_FILE, HuggingFaceSettings, WEIGHTS_FILE, stored_names, write_config};
use crate::model::tensor_file::{TensorEntry, TensorFile, hash_file, stored_dtype, write_file, write_tensor_file};
use crate::tensor::TensorId;
use crate::{Error, Result};

pub(super) const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const MEMORY_FILE: &str = "memory.safetensors";
pub(super) const STATE_FILE: &str = "state.json";
const STATE_HASH_FILE: &str = "state.json.sha256";
/// Files that hold tensors.
pub(super) const TENSOR_FILES: [&str; 3] = [WEIGHTS_FILE, OPTIMIZER_FILE, MEMORY_FILE];
/// Files whose hashes `state.json` holds.
const HASHED: [&str; 4] = [CONFIG_FILE, WEIGHTS_FILE, OPTIMIZER_FILE, MEMORY_FILE];
/// Temporary directories beside the checkpoints; what a killed process left is removed by the next save.
const TEMPORARY: &str = ".tmp-step-";

/// What `config.json` of a checkpoint says.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelDescription {
    /// Sizes.
    pub config: XlnetConfig,
    /// The rest.
    pub settings: HuggingFaceSettings,
}

/// Which tensor of the program is stored under which name.
pub(super) type Stored = Vec<(TensorId, TensorEntry)>;

fn stored(step: &StepProgram, ids: impl IntoIterator<Item = TensorId>, n_layer: usize) -> Stored {
    let mut all = vec![];
    for id in ids {
        let desc = step.program.tensor(id);
        for name in stored_names(&desc.name, n_layer) {
            let (shape, dtype) = (desc.shape.dims().to_vec(), stored_dtype(desc.dtype));
            all.push((id, TensorEntry { name, shape, dtype }));
        }
    }
    all
}

/// The three tensor files of a checkpoint with their tensors.
pub(super) fn tensor_files(step: &StepProgram, n_layer: usize) -> [(&'static str, Stored); 3] {
    let moments = step.update.iter().flat_map(|u| &u.trained).flat_map(|t| [t.m, t.v]);
    [
        (WEIGHTS_FILE, stored(step, step.params.iter().copied(), n_layer)),
        (OPTIMIZER_FILE, stored(step, moments, n_layer)),
        (MEMORY_FILE, stored(step, step.memory.iter().copied(), n_layer)),
    ]
}

/// Writes the checkpoint `step-<n>` of `state.step` into `dir` and removes the oldest ones beyond `max_save` (0 keeps
/// all); those of later steps are not touched. A checkpoint of the same step is replaced. Returns its directory.
///
/// # Errors
/// When the device fails or the disk refuses; everything that was there before is still there then, and nothing else.
pub fn save_checkpoint(
    dir: &Path,
    step: &StepProgram,
    exec: &mut dyn Executor,
    model: &ModelDescription,
    state: &TrainState,
    max_save: usize,
) -> Result<PathBuf> {
    let files = tensor_files(step, model.config.n_layer);
    let mut read = |id: TensorId, bytes: &mut Vec<u8>| {
        bytes.resize(step.program.tensor(id).bytes(), 0);
        exec.read(id, bytes)
    };
    write_checkpoint(dir, &files, &mut read, model, state, max_save)
}

/// [`save_checkpoint`] of tensors that `read` appends to an empty buffer.
pub(super) fn write_checkpoint(
    dir: &Path,
    files: &[(&'static str, Stored)],
    read: &mut dyn FnMut(TensorId, &mut Vec<u8>) -> Result<()>,
    model: &ModelDescription,
    state: &TrainState,
    max_save: usize,
) -> Result<PathBuf> {
    fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    remove_leftovers(dir);
    let new = temporary(dir)?;
    write_files(new.path(), files, read, model, state)?;
    let path = dir.join(format!("step-{}", state.step));
    replace(dir, new, &path)?;
    prune(dir, state.step, max_save);
    Ok(path)
}

fn temporary(dir: &Path) -> Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    public(&mut builder, 0o777);
    builder.tempdir_in(dir).map_err(|e| Error::io("create a directory in", dir, e))
}

fn write_files(
    dir: &Path,
    files: &[(&'static str, Stored)],
    read: &mut dyn FnMut(TensorId, &mut Vec<u8>) -> Result<()>,
    model: &ModelDescription,
    state: &TrainState,
) -> Result<()> {
    let mut sha256 = BTreeMap::new();
    sha256.insert(CONFIG_FILE.to_owned(), write_config(dir, &model.config, &model.settings)?);
    for (file, stored) in files {
        let mut entries: Vec<TensorEntry> = stored.iter().map(|(_, entry)| entry.clone()).collect();
        // As in exported models: all classes of transformers have this tensor, and would draw it at random.
        if *file == WEIGHTS_FILE && !entries.is_empty() && entries.iter().all(|entry| entry.name != MASK) {
            let (shape, dtype) = (vec![1, 1, model.config.d_model], entries[0].dtype);
            entries.push(TensorEntry { name: MASK.into(), shape, dtype });
        }
        let hash = write_tensor_file(&dir.join(file), &entries, |i, bytes| match stored.get(i) {
            Some((id, _)) => read(*id, bytes),
            None => {
                bytes.resize(entries[i].shape.iter().product::<usize>() * entries[i].dtype.bitsize() / 8, 0);
                Ok(())
            }
        })?;
        sha256.insert((*file).to_owned(), hash);
    }
    let text = StateFile { format_version: FORMAT_VERSION, state: state.clone(), sha256 }.to_json()?;
    let hash = write_text(&dir.join(STATE_FILE), &text)?;
    write_text(&dir.join(STATE_HASH_FILE), &format!("{hash}  {STATE_FILE}\n"))?;
    sync_directory(dir)
}

fn write_text(path: &Path, text: &str) -> Result<String> {
    write_file(path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e)))
}

/// Gives a finished directory its name. An older checkpoint of the same name steps aside first and returns on failure.
fn replace(dir: &Path, new: tempfile::TempDir, path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::data(path, "is a file where a checkpoint's directory must be; move it away"));
    }
    let aside = temporary(dir)?;
    let old = aside.path().join(path.file_name().unwrap_or_default());
    let had_old = match fs::rename(path, &old) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Error::io("replace", path, e)),
    };
    if let Err(e) = fs::rename(new.path(), path) {
        if had_old && fs::rename(&old, path).is_err() {
            let kept = aside.keep(); // better an odd name than a lost checkpoint
            tracing::warn!(old = %kept.display(), "the older checkpoint of this step lies here now");
        }
        return Err(Error::io("name the checkpoint", path, e));
    }
    let _ = new.keep(); // renamed: there is nothing to remove under the temporary name
    sync_directory(dir)
}

/// Checkpoints in `dir` with their steps, newest first.
pub(crate) fn checkpoints(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("read", dir, e)),
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", dir, e))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse::<u64>().ok());
        if let Some(step) = number.filter(|_| path.is_dir()) {
            found.push((step, path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Removes checkpoints of earlier steps beyond the `max_save` newest ones, `step` included. Failure is no error: the
/// new checkpoint is safe.
fn prune(dir: &Path, step: u64, max_save: usize) {
    if max_save == 0 {
        return;
    }
    let remove = |path: &Path| -> Result<()> {
        // First out of the way, so that a checkpoint half removed is never taken for one.
        let aside = temporary(dir)?;
        fs::rename(path, aside.path().join("removed")).map_err(|e| Error::io("remove", path, e))?;
        aside.close().map_err(|e| Error::io("remove", path, e))
    };
    let removed = checkpoints(dir).and_then(|all| {
        let mut old = all.iter().filter(|(n, _)| *n <= step).skip(max_save);
        old.try_for_each(|(_, path)| remove(path))
    });
    if let Err(e) = removed {
        tracing::warn!("an old checkpoint stays: {e}");
    }
}

/// Removes what a killed process left half-written, and gives a checkpoint that had just stepped aside its name back.
pub(crate) fn remove_leftovers(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            continue;
        }
        let path = entry.path();
        for (_, old) in checkpoints(&path).unwrap_or_default() {
            let name = dir.join(old.file_name().unwrap_or_default());
            if !name.exists() {
                tracing::warn!(path = %name.display(), "a checkpoint whose replacement was cut short is back");
                let _ = fs::rename(&old, &name);
            }
        }
        tracing::info!(path = %path.display(), "removing an unfinished checkpoint");
        let _ = fs::remove_dir_all(&path);
    }
}

/// A checkpoint whose files are those that were written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    state: TrainState,
}

impl Checkpoint {
    /// Opens a checkpoint directory and compares all its files with their hashes.
    ///
    /// # Errors
    /// When a file is missing, unreadable or not the one that was written.
    pub fn open(path: &Path) -> Result<Self> {
        let state_path = path.join(STATE_FILE);
        let hash_path = path.join(STATE_HASH_FILE);
        let hash = fs::read(&hash_path).map_err(|e| Error::io("read", &hash_path, e))?;
        let expected = format!("{}  {STATE_FILE}\n", hash_file(&state_path)?);
        if hash != expected.as_bytes() {
            return Err(damaged(&state_path));
        }
        let text = fs::read_to_string(&state_path).map_err(|e| Error::io("read", &state_path, e))?;
        let file = StateFile::from_json(&state_path, &text)?;
        for name in HASHED {
            let path = path.join(name);
            if file.sha256.get(name) != Some(&hash_file(&path)?) {
                return Err(damaged(&path));
            }
        }
        Ok(Checkpoint { path: path.to_owned(), state: file.state })
    }

    /// Its directory, which is also a Hugging Face model directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The loop's state.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// Uploads parameters, moments of the optimiser (when the program has one) and memories, bit for bit. Nothing is
    /// uploaded unless everything fits.
    ///
    /// # Errors
    /// When the checkpoint is of another model, optimiser or batch, or the device fails.
    pub fn load(&self, step: &StepProgram, exec: &mut dyn Executor) -> Result<()> {
        self.read(step, None, &mut |id, bytes| exec.write(id, &bytes))
    }

    /// Like [`Checkpoint::load`], but hands each tensor to `write`. Memories are of `batch` rows, where that is not the
    /// program's own number.
    pub(super) fn read(
        &self,
        step: &StepProgram,
        batch: Option<usize>,
        write: &mut dyn FnMut(TensorId, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let config_path = self.path.join(CONFIG_FILE);
        let config = XlnetConfig::read(&config_path)?;
        let untied = step.program.find("transformer.r_w_bias").is_none();
        if config.untie_r != untied {
            let what = format!("untie_r is {}, but the program was built with {untied}", config.untie_r);
            return Err(Error::data(config_path, what));
        }
        let mut plan = vec![];
        for (name, mut stored) in tensor_files(step, config.n_layer) {
            if name == MEMORY_FILE
                && let Some(batch) = batch
            {
                stored.iter_mut().for_each(|(_, entry)| entry.shape[0] = batch);
            }
            let file = TensorFile::open(&self.path.join(name))?;
            let wanted = |name: &String| name == MASK || stored.iter().any(|(_, entry)| entry.name == *name);
            // A program without optimiser or memory leaves them alone; one with some must know all.
            if let Some(extra) = file.names().into_iter().find(|name| !stored.is_empty() && !wanted(name)) {
                let what = format!("has a tensor {extra} that the program has not; to use the model only, load it");
                return Err(Error::data(file.path(), what + " as a model directory"));
            }
            for (_, entry) in &stored {
                check_entry(&file, entry)?;
            }
            plan.push((file, stored));
        }
        for (mut file, stored) in plan {
            let mut last = None;
            for (id, entry) in stored {
                // Every layer has the same copy of a tied bias; the first is enough.
                if last.replace(id) != Some(id) {
                    write(id, file.read_bytes(&entry.name)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Gives tensors the number of rows that `memory` has of them: a program may have a share of the batch only.
pub(super) fn set_memory_rows(files: &mut [(&'static str, Stored); 3], memory: &[Rows]) {
    for (id, entry) in files.iter_mut().flat_map(|(_, stored)| stored) {
        if let Some((_, bytes)) = memory.iter().find(|(of, _)| of == id) {
            let row: usize = entry.shape[1..].iter().product();
            entry.shape[0] = bytes.len() * 8 / entry.dtype.bitsize() / row.max(1);
        }
    }
}

fn damaged(path: &Path) -> Error {
    Error::data(path, "is not the file that was written: its SHA-256 differs; use an older checkpoint")
}

fn check_entry(file: &TensorFile, entry: &TensorEntry) -> Result<()> {
    let name = &entry.name;
    let Some((shape, dtype)) = file.info(name) else {
        return Err(Error::data(file.path(), format!("has no tensor {name}; it is of another model or optimiser")));
    };
    if shape != entry.shape || dtype != entry.dtype {
        let (expected, wanted) = (&entry.shape, entry.dtype);
        let hint = "; resume with the sizes it was made with";
        let what = format!("tensor {name} must be {wanted} {expected:?}, but is {dtype} {shape:?}{hint}");
        return Err(Error::data(file.path(), what));
    }
    Ok(())
}

/// Opens and loads the checkpoint at `path`; returns the loop's state.
///
/// # Errors
/// Those of [`Checkpoint::open`] and [`Checkpoint::load`].
pub fn load_checkpoint(path: &Path, step: &StepProgram, exec: &mut dyn Executor) -> Result<TrainState> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.load(step, exec)?;
    Ok(checkpoint.state)
}

/// The newest undamaged checkpoint of `dir`; `None` when there is none at all. Damaged ones are passed over with a
/// warning that says why.
///
/// # Errors
/// When the directory cannot be read, or holds damaged checkpoints only: to start afresh then is the user's decision.
pub fn latest(dir: &Path) -> Result<Option<Checkpoint>> {
    let all = checkpoints(dir)?;
    let mut newest_error = None;
    for (_, path) in &all {
        match Checkpoint::open(path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(e) => {
                tracing::warn!(checkpoint = %path.display(), "damaged, trying the one before: {e}");
                newest_error.get_or_insert(e);
            }
        }
    }
    match newest_error {
        None => Ok(None),
        Some(e) => {
            let n = all.len();
            let what = format!("all {n} checkpoints are damaged, the newest: {e}; move them away to start afresh");
            Err(Error::data(dir, what))
        }
    }
}
