//! A run's ranks: each works on its share of every batch, all hold the same weights.
//!
//! Losses are weighted by one over the targets of the whole batch, so the ranks' losses and gradients add up to those of
//! the batch, and the norm that clips is that of the sum. Every rank makes the same update of the same bits; nothing else
//! keeps the weights equal, and [`Ranks::check_weights`] sees to it that they are.
//!
//! Checkpoints know nothing of ranks: memories are stored row by row of the batch, so any number of ranks goes on from them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keys::Keyed;
use super::run_plan::RunPlan;
use super::session::{Session, StepResult};
use super::state::TrainState;
use super::step::StepProgram;
use crate::backend::Executor;
use crate::data::batch::Batch;
use crate::distributed::device::{Reduce, Sums};
use crate::distributed::{self, Collective};
use crate::tensor::TensorId;
use crate::{Error, Result};

/// Bytes of a tensor of the whole batch.
pub type Rows = (TensorId, Vec<u8>);

/// This process among those of its run.
pub struct Ranks {
    group: Box<dyn Collective>,
    shares: Vec<Vec<usize>>, // rows of each rank
    sums: Sums,
    engine: String,
}

/// What a run goes on from, as rank 0 found it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The checkpoint's directory.
    pub path: std::path::PathBuf,
    /// Its state.
    pub state: TrainState,
}

impl Ranks {
    /// A rank for each of the `shares`: the rows of the batch that it works on, in its order; see [`RunPlan::shares`].
    ///
    /// # Errors
    /// When `group` has another number of ranks.
    pub fn new(group: Box<dyn Collective>, shares: Vec<Vec<usize>>) -> Result<Self> {
        let (planned, there) = (shares.len(), group.ranks());
        if planned != there {
            return Err(Error::ranks(format!("the run is planned for {planned} ranks, but there are {there}")));
        }
        let engine = group.engine().to_owned();
        Ok(Ranks { group, shares, sums: Sums::in_host_memory(), engine })
    }
    /// Number of this rank.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }
    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.shares.len()
    }
    /// What carries their bytes, and who adds up gradients.
    pub fn engine(&self) -> &str {
        &self.engine
    }
    /// Lets devices add up gradients among themselves where they can.
    ///
    /// # Errors
    /// Those of [`Sums::join`].
    pub fn join_devices(&mut self, exec: &mut dyn Executor, reduce: Reduce) -> Result<()> {
        self.sums = Sums::join(&mut *self.group, exec, reduce)?;
        if let Some(how) = self.sums.how() {
            self.engine = format!("{}, gradients {how}", self.group.engine());
        }
        Ok(())
    }
    /// True for the one rank that writes logs and checkpoints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }
    /// Rows of the batch that this rank works on, in its order.
    pub fn rows(&self) -> &[usize] {
        &self.shares[self.rank()]
    }
    /// Tells the others why this rank ends.
    pub fn fail(&mut self, error: &Error) {
        self.group.fail(error);
    }
    /// Leaves the group in order.
    ///
    /// # Errors
    /// When another rank has failed.
    pub fn finish(&mut self) -> Result<()> {
        self.group.finish()
    }
    /// Whether any rank says yes.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn any(&mut self, mine: bool) -> Result<bool> {
        distributed::any(&mut *self.group, mine)
    }

    /// Sees to it that all ranks have the same settings and the same records.
    ///
    /// # Errors
    /// When they do not: the sentence names the first line that differs.
    pub fn check_plan(&mut self, plan: &RunPlan) -> Result<()> {
        let mine = describe(plan)?;
        let mut first = mine.clone().into_bytes();
        distributed::broadcast_any(&mut *self.group, &mut first)?;
        let first = String::from_utf8_lossy(&first).into_owned();
        if first == mine {
            return Ok(());
        }
        let differs = |(a, b): &(&str, &str)| a != b;
        let (theirs, ours) = first.lines().zip(mine.lines()).find(differs).unwrap_or(("fewer lines", "more lines"));
        let rank = self.rank();
        Err(Error::ranks(format!("rank 0 has {theirs}, but rank {rank} has {ours}; all ranks need the same run")))
    }

    /// What rank 0 found to go on from.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn share_start(&mut self, found: Option<Start>) -> Result<Option<Start>> {
        let unreadable = |e| Error::ranks(format!("what rank 0 says of its checkpoint is not readable: {e}"));
        let mut bytes = serde_json::to_vec(&found).map_err(unreadable)?;
        distributed::broadcast_any(&mut *self.group, &mut bytes)?;
        serde_json::from_slice(&bytes).map_err(unreadable)
    }

    /// Rank 0's number, everywhere.
    ///
    /// # Errors
    /// When a rank has ended.
    pub fn first(&mut self, number: u64) -> Result<u64> {
        let mut bytes = number.to_le_bytes();
        distributed::broadcast(&mut *self.group, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Gives all ranks the parameters and moments of rank 0.
    ///
    /// # Errors
    /// When a rank has ended or the device fails.
    pub fn share_weights(&mut self, program: &StepProgram, exec: &mut dyn Executor) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        for id in persistent(program) {
            let mut bytes = vec![0; program.program.tensor(id).bytes()];
            exec.read(id, &mut bytes)?;
            distributed::broadcast(&mut *self.group, &mut bytes)?;
            exec.write(id, &bytes)?;
        }
        Ok(())
    }

    /// Gives each rank its rows of the memories of the whole batch, which rank 0 has.
    ///
    /// # Errors
    /// When a rank has ended or the device fails.
    pub fn scatter_memory(&mut self, program: &StepProgram, exec: &mut dyn Executor, all: &[Rows]) -> Result<()> {
        for &id in &program.memory {
            let mut mine = vec![0; program.program.tensor(id).bytes()]; // [rows, M, d]
            let row = mine.len() / self.rows().len();
            let whole = all.iter().find(|(of, _)| *of == id).map_or(&[][..], |(_, bytes)| bytes); // [B, M, d]
            let rows: usize = self.shares.iter().map(Vec::len).sum();
            if self.is_first() && whole.len() != rows * row {
                let (name, got) = (&program.program.tensor(id).name, whole.len());
                return Err(Error::plan(format!("{name} needs {} bytes for all ranks, got {got}", rows * row)));
            }
            let pick = |rows: &Vec<usize>| -> Vec<u8> {
                rows.iter().flat_map(|&r| whole[r * row..(r + 1) * row].iter().copied()).collect()
            };
            let parts: Vec<Vec<u8>> = if self.is_first() { self.shares.iter().map(pick).collect() } else { vec![] };
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            distributed::scatter(&mut *self.group, &parts, &mut mine)?;
            exec.write(id, &mine)?;
        }
        Ok(())
    }

    /// The memories of the whole batch at rank 0, row by row; nothing elsewhere.
    ///
    /// # Errors
    /// When a rank has ended or the device fails.
    pub fn gather_memory(&mut self, program: &StepProgram, exec: &mut dyn Executor) -> Result<Vec<Rows>> {
        let mut all = vec![];
        for &id in &program.memory {
            let mut mine = vec![0; program.program.tensor(id).bytes()]; // [rows, M, d]
            exec.read(id, &mut mine)?;
            let row = mine.len() / self.rows().len();
            let parts = distributed::gather(&mut *self.group, &mine)?;
            let mut whole = vec![0; parts.iter().map(Vec::len).sum()];
            for (share, part) in self.shares.iter().zip(&parts) {
                for (&r, values) in share.iter().zip(part.chunks(row)) {
                    whole[r * row..(r + 1) * row].copy_from_slice(values);
                }
            }
            if self.is_first() {
                all.push((id, whole));
            }
        }
        Ok(all)
    }

    /// One update on this rank's share of a batch, beside others; loss and norm are those of the whole batch.
    ///
    /// # Errors
    /// When a rank has ended, the batch has no target, or the device fails.
    pub fn train(&mut self, session: &mut Session, share: &Batch) -> Result<StepResult> {
        let mut targets = [share.target_mask.iter().sum::<f32>()];
        distributed::sum(&mut *self.group, &mut targets)?;
        session.upload_share(share, targets[0])?;
        let mut loss = [session.backward()?];
        distributed::sum(&mut *self.group, &mut loss)?;
        if !loss[0].is_finite() {
            // No update: the weights stay as they were, to show what went wrong.
            return session.skip_update(loss[0]);
        }
        let gradients = session.gradients();
        self.sums.sum(&mut *self.group, session.exec(), &gradients)?;
        session.update(loss[0])
    }

    /// Sees to it that all ranks have the same bits in parameters and moments.
    ///
    /// # Errors
    /// When they have not (the sentence names the ranks), a rank has ended or the device fails.
    pub fn check_weights(&mut self, program: &StepProgram, exec: &mut dyn Executor) -> Result<()> {
        if self.ranks() == 1 {
            return Ok(());
        }
        let mut hash = Sha256::new();
        for id in persistent(program) {
            let mut bytes = vec![0; program.program.tensor(id).bytes()];
            exec.read(id, &mut bytes)?;
            hash.update(&bytes);
        }
        let all = distributed::all_gather(&mut *self.group, &hash.finalize())?;
        let others: Vec<String> = (0..all.len()).filter(|&r| all[r] != all[0]).map(|r| r.to_string()).collect();
        if others.is_empty() {
            return Ok(());
        }
        let others = others.join(", ");
        Err(Error::ranks(format!(
            "the weights of rank {others} differ from those of rank 0; ranks need the same program on processors of the \
             same kind"
        )))
    }
}

/// What training changes and all ranks have alike: parameters, then moments.
fn persistent(program: &StepProgram) -> Vec<TensorId> {
    let moments = program.update.iter().flat_map(|update| &update.trained).flat_map(|t| [t.m, t.v]);
    program.params.iter().copied().chain(moments).collect()
}

/// All that must be the same in all ranks, a line each. Directories and devices may differ.
fn describe(plan: &RunPlan) -> Result<String> {
    let mut config = plan.config.clone();
    config.record_info_dir.0.clear();
    config.eval_record_info_dir.0.clear();
    (config.model_dir, config.log_dir, config.device) = Default::default();
    (config.init_checkpoint, config.sp_path) = Default::default();
    (config.resume, config.model_config_path) = Default::default();
    let mut text = format!("xlnet {}\n{}", env!("CARGO_PKG_VERSION"), config.to_toml()?);
    for files in &plan.records.files {
        let name = files.index.file_name().unwrap_or_default().to_string_lossy();
        text += &format!("{} steps in {name}\n", files.num_batch);
    }
    text += &format!("a model of {:?}\n", plan.model);
    Ok(text)
}
