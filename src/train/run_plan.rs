//! A pretraining run that was checked against its data, before any work.

use super::import::vocabulary_beside;
use super::run_config::RunConfig;
use super::step::{Objective, OptimizerOptions, StepOptions};
use crate::backend::Device;
use crate::config::XlnetConfig;
use crate::data::loader::LoaderOptions;
use crate::data::permutation::check_perm_size;
use crate::data::record_info::{RecordInfo, RecordQuery, RecordSet, RecordSettings};
use crate::data::share::rows_of_parts;
use crate::data::tokenizer::Tokenizer;
use crate::model::{MaskKind, QueryKind, TransformerOptions};
use crate::tensor::DType;
use crate::{Error, Result};

/// Everything a run needs, decided.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The settings with every derived value filled in; what is saved beside checkpoints.
    pub config: RunConfig,
    /// Sizes of the model.
    pub model: XlnetConfig,
    /// Where it runs.
    pub device: Device,
    /// Training data.
    pub records: RecordSet,
    /// Held-out data.
    pub held_out: Option<RecordSet>,
    /// Processes that share each batch.
    pub ranks: usize,
}

impl RunPlan {
    /// Finds the data and checks that everything fits together.
    ///
    /// # Errors
    /// A sentence that names the setting or file that does not fit, and what would.
    pub fn new(config: RunConfig) -> Result<Self> {
        Self::for_ranks(config, 1)
    }

    /// The plan of a run of `ranks` processes, each of which works on an equal share of every batch.
    ///
    /// # Errors
    /// Those of [`RunPlan::new`], and when batches cannot be shared.
    pub fn for_ranks(mut config: RunConfig, ranks: usize) -> Result<Self> {
        config.validate()?;
        let device = config.device.parse::<Device>()?.resolve()?;
        let query = RecordQuery {
            bsz: config.train_batch_size,
            seq_len: config.seq_len,
            reuse_len: config.reuse_len,
            uncased: config.uncased,
            bi_data: config.bi_data,
            mask_alpha: config.mask_alpha,
            mask_beta: config.mask_beta,
            num_predict: config.num_predict.map(Some),
            num_passes: config.num_passes,
            num_core_per_host: config.num_core_per_host,
            vocabulary_hash: vocabulary_in_use(&config)?,
            ..RecordQuery::default()
        };
        let records = RecordSet::find(&config.record_info_dir.0, &query)?;
        let settings = &records.settings;
        let reuse_len = settings.reuse_len.unwrap_or(settings.seq_len / 2);
        let perm_size = config.perm_size.unwrap_or(reuse_len);
        check_perm_size(perm_size, reuse_len, settings.seq_len)?;
        check_batch(settings, config.accumulate, ranks)?;
        let model = config.model(vocabulary_size(&records)?)?;

        config.train_batch_size = Some(settings.bsz);
        config.seq_len = Some(settings.seq_len);
        config.reuse_len = Some(reuse_len);
        config.perm_size = Some(perm_size);
        config.uncased = Some(settings.uncased);
        config.bi_data = Some(settings.bi_data);
        config.mask_alpha = Some(settings.mask_alpha);
        config.mask_beta = Some(settings.mask_beta);
        config.num_predict = settings.num_predict;
        config.n_token = Some(model.n_token);
        if config.model_config_path.is_none() {
            config.n_layer = Some(model.n_layer);
            config.d_model = Some(model.d_model);
            config.n_head = Some(model.n_head);
            config.d_head = Some(model.d_head);
            config.d_inner = Some(model.d_inner);
            config.ff_activation = Some(model.ff_activation);
            config.untie_r = Some(model.untie_r);
        }
        let held_out = held_out(&config, &records)?;
        Ok(RunPlan { config, model, device, records, held_out, ranks })
    }

    /// How training data are read.
    pub fn loader(&self) -> LoaderOptions {
        LoaderOptions {
            perm_size: self.config.perm_size,
            seed: self.config.seed,
            vocab_size: Some(self.model.n_token),
            ..LoaderOptions::default()
        }
    }
    /// Rows of the batch that each rank works on, in its order, micro-batch by micro-batch.
    pub fn shares(&self) -> Vec<Vec<usize>> {
        let RecordSettings { bsz, bi_data, .. } = self.records.settings;
        // Where files do not tell, the loader finds it out: what the rows are does not depend on how they are dealt out.
        let num_core = self.records.files.first().and_then(|files| files.num_core_per_host).unwrap_or(1);
        let rows = rows_of_parts(bsz, num_core, bi_data, self.ranks * self.config.accumulate);
        rows.chunks(bsz / self.ranks).map(<[usize]>::to_vec).collect()
    }
    /// A rank's program of the training step.
    pub fn step_options(&self) -> StepOptions {
        let share = RecordSettings { bsz: self.records.settings.bsz / self.ranks, ..self.records.settings.clone() };
        step_options(&self.config, &share, self.config.accumulate, Some(self.config.optimizer()))
    }
    /// The program that measures held-out loss: no dropout, no gradients, one batch at a time.
    pub fn eval_options(&self) -> Option<StepOptions> {
        self.held_out.as_ref().map(|set| step_options(&self.config, &set.settings, 1, None))
    }
    /// Input tokens of an update, of all ranks.
    pub fn tokens_per_step(&self) -> u64 {
        (self.records.settings.bsz * self.records.settings.seq_len) as u64
    }
}

/// Program options for batches of `settings`.
fn step_options(
    config: &RunConfig,
    settings: &RecordSettings,
    accumulate: usize,
    optimizer: Option<OptimizerOptions>,
) -> StepOptions {
    let training = optimizer.is_some();
    let rate = |rate: f64| if training { rate as f32 } else { 0.0 };
    let transformer = TransformerOptions {
        batch: settings.bsz / accumulate,
        length: settings.seq_len,
        memory: config.mem_len,
        mem_len: config.mem_len,
        reuse_len: Some(settings.reuse_len.unwrap_or(settings.seq_len / 2)),
        clamp_len: usize::try_from(config.clamp_len).ok().filter(|&n| n > 0),
        bi_data: settings.bi_data,
        mask: MaskKind::Ranks,
        query: settings.num_predict.map_or(QueryKind::All, QueryKind::Targets),
        dropout: rate(config.dropout),
        dropatt: rate(config.dropatt),
        position_dropout: config.position_dropout,
        recompute: config.recompute,
        products: config.products(),
        ..TransformerOptions::default()
    };
    StepOptions { transformer, objective: Objective::LanguageModel, accumulate, float: DType::F32, optimizer }
}

fn check_batch(settings: &RecordSettings, accumulate: usize, ranks: usize) -> Result<()> {
    let bsz = settings.bsz;
    let divisors = |n: usize| {
        let all: Vec<String> = (1..=n).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string()).collect();
        all.join(", ")
    };
    if ranks == 0 || !bsz.is_multiple_of(ranks) {
        let numbers = divisors(bsz);
        return Err(Error::config(format!(
            "{ranks} ranks cannot share a batch of {bsz} sequences equally; start a number of {numbers}"
        )));
    }
    let share = bsz / ranks;
    if !share.is_multiple_of(accumulate) {
        let (numbers, whose) = (divisors(share), if ranks == 1 { "" } else { " of a rank" });
        return Err(Error::config(format!(
            "accumulate must divide the batch of {share} sequences{whose} ({numbers}), but is {accumulate}"
        )));
    }
    if settings.bi_data && !bsz.is_multiple_of(2) {
        return Err(Error::config(format!("bi_data needs an even train_batch_size, but the records have {bsz}")));
    }
    Ok(())
}

/// SHA-256 of the vocabulary that `sp_path` names, or that lies beside the weights to start from.
fn vocabulary_in_use(config: &RunConfig) -> Result<Option<String>> {
    let tokenizer = match (&config.sp_path, &config.init_checkpoint) {
        (Some(path), _) => Some(Tokenizer::open(path)?),
        (None, Some(named)) => vocabulary_beside(named)?,
        (None, None) => None,
    };
    Ok(tokenizer.map(|tokenizer| tokenizer.vocabulary_hash().to_owned()))
}

/// Size of the vocabulary that our corpus builder noted; the original notes it in a file we do not need.
fn vocabulary_size(records: &RecordSet) -> Result<Option<usize>> {
    let Some(files) = records.files.first() else { return Ok(None) };
    let text = std::fs::read(&files.index).map_err(|e| Error::io("read", &files.index, e))?;
    let info: RecordInfo = serde_json::from_slice(&text)
        .map_err(|e| Error::data(&files.index, format!("it is not a record_info file: {e}; build the corpus again")))?;
    Ok(info.xlnet.map(|made| made.vocab_size))
}

/// Held-out records may have a batch of their own; sequences must be like those of training.
fn held_out(config: &RunConfig, records: &RecordSet) -> Result<Option<RecordSet>> {
    let directories = &config.eval_record_info_dir.0;
    if directories.is_empty() {
        return Ok(None);
    }
    let query = RecordQuery {
        split: config.eval_split.parse()?,
        seq_len: Some(records.settings.seq_len),
        reuse_len: records.settings.reuse_len,
        uncased: Some(records.settings.uncased),
        vocabulary_hash: records.vocabulary_hash.clone(),
        keep_accents: records.keep_accents,
        ..RecordQuery::default()
    };
    let set = RecordSet::find(directories, &query)?;
    if set.files.iter().any(|theirs| records.files.iter().any(|ours| ours.index == theirs.index)) {
        tracing::warn!("some held-out records are training records too; their loss says little");
    }
    Ok(Some(set))
}
