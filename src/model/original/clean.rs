//! A bundle without the optimiser's state.

use std::path::{Path, PathBuf};

use super::{STEP, config_beside, write::write_note};
use crate::model::tensor_source::TensorSource;
use crate::model::tf_bundle::{BundleTensor, TfBundle, write_bundle};
use crate::{Error, Result};

/// What [`clean_bundle`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The new bundle.
    pub prefix: PathBuf,
    /// Number of variables that it has from the old one.
    pub kept: usize,
    /// Names that were left out.
    pub dropped: Vec<String>,
}

/// Copies the bundle called `prefix` into `directory` as `model.ckpt-0` as the original's `model_utils.py` does: every
/// variable, bit for bit, whose name neither begins with `global_step` nor contains `adam` in any case, and a
/// `global_step` of 0. The powers of Adam's decays go with its moments. The configuration beside it is copied too.
///
/// # Errors
/// When the bundle is damaged or the disk refuses.
pub fn clean_bundle(prefix: &Path, directory: &Path) -> Result<Cleaned> {
    let mut bundle = TfBundle::open(prefix)?;
    let state = |name: &String| {
        let powers = super::BETA_POWERS.iter().any(|(power, _)| power == name);
        powers || name.starts_with(STEP) || name.to_lowercase().contains("adam")
    };
    let (dropped, mut kept): (Vec<String>, Vec<String>) = bundle.names().into_iter().partition(state);
    let new = directory.join("model.ckpt-0");
    let count = kept.len();
    kept.push(STEP.to_owned());
    write_bundle(&new, &kept, |name| {
        if name == STEP { Ok(BundleTensor::I64(0)) } else { bundle.stored(name).map(BundleTensor::Stored) }
    })?;
    if let Some(config) = config_beside(prefix) {
        let to = directory.join(config.file_name().unwrap_or_default());
        let bytes = std::fs::read(&config).map_err(|e| Error::io("read", &config, e))?;
        super::write::write_whole(&to, &bytes)?;
    }
    write_note(&new)?;
    Ok(Cleaned { prefix: new, kept: count, dropped })
}
