//! `xlnet predict`.

use anyhow::bail;

use super::evaluate::{answer, open, read};
use super::features::show_remarks;
use crate::cli::args::PredictArgs;
use crate::cli::output::print;
use crate::task::config::FinetuneConfig;
use crate::task::predict::{Writing, write};
use crate::train::keys::Keyed;

/// Writes a model's predictions for a set or a file.
pub fn run(args: PredictArgs) -> anyhow::Result<()> {
    let config = FinetuneConfig::load(args.run.as_deref(), args.flags.0)?;
    let Some(dir) = &config.predict_dir else {
        bail!("predict_dir is missing: name the directory for predictions");
    };
    let model = open(config.predict_ckpt.as_ref().unwrap_or(&config.model_dir), &config)?;
    let dataset = read(&model, &config, false)?;
    show_remarks(&dataset.remarks);
    let outputs = answer(&model, &dataset)?;
    let how = Writing {
        predict_threshold: config.predict_threshold,
        null_threshold: config.null_threshold,
        split: config.eval_split.parse()?,
    };
    let path = write(dir, &model, &dataset, &outputs, how)?;
    print(&format!("{} predictions in {}", dataset.examples.len(), path.display()));
    Ok(())
}
