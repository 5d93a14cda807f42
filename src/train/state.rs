//! What a run must remember besides tensors: `state.json` of a checkpoint.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guard::LossGuard;
use super::loss_scale::DynamicScale;
use crate::{Error, Result};

/// Version of the checkpoint format that this library writes.
pub const FORMAT_VERSION: u32 = 1;

/// The loop's state after a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Updates done.
    pub step: u64,
    /// Where the data loader goes on; only the loader understands it.
    pub data: Value,
    /// Seed of all random streams.
    pub seed: u64,
    /// Losses since they were last reported.
    #[serde(with = "exact")]
    pub loss_window: Vec<f64>,
    /// What losses are usual.
    #[serde(default)]
    pub guard: LossGuard,
    /// The factor of the loss, where it adapts itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<DynamicScale>,
    /// SHA-256 of the vocabulary in hexadecimal; `None` when the run has none.
    pub vocabulary: Option<String>,
    /// Resolved settings of the run.
    pub settings: Value,
}

/// Content of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateFile {
    pub format_version: u32,
    pub state: TrainState,
    /// SHA-256 of the other files, in hexadecimal.
    pub sha256: BTreeMap<String, String>,
}

/// Only the version, to name it before the rest is parsed.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl StateFile {
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|text| text + "\n").map_err(|e| Error::config(format!("the state of the run is not JSON: {e}")))
    }
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let bad = |e| Error::data(path, format!("not the state of a run: {e}"));
        let Version { format_version: got } = serde_json::from_str(text).map_err(bad)?;
        if got != FORMAT_VERSION {
            let what = format!("format_version must be {FORMAT_VERSION}, but is {got}; use the xlnet that wrote it");
            return Err(Error::data(path, what));
        }
        serde_json::from_str(text).map_err(bad)
    }
}

/// Numbers as text: JSON has no NaN, and its parser may be off by the last bit.
pub(crate) mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], s: S) -> Result<S::Ok, S::Error> {
        values.iter().map(f64::to_string).collect::<Vec<_>>().serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| text.parse().map_err(|_| D::Error::custom(format!("{text:?} is no number")))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::loss_scale::LossScale;
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn json_keeps_every_bit() {
        let state = TrainState {
            step: u64::MAX,
            data: serde_json::json!({"shard": 3, "record": 18446744073709551615u64}),
            seed: 0x9e37_79b9_7f4a_7c15,
            loss_window: vec![0.1 + 0.2, 1.0 / 3.0, 5e-324, f64::MAX, f64::INFINITY, 2.225_073_858_507_201e-308],
            vocabulary: Some("ab".repeat(32)),
            guard: LossGuard::default(),
            loss_scale: LossScale::new(0.0, Some(DType::F16)).unwrap().state(),
            settings: serde_json::json!({"learning_rate": 1e-4, "name": "π \"x\"\n"}),
        };
        let file = StateFile { format_version: FORMAT_VERSION, state, sha256: BTreeMap::new() };
        let text = file.to_json().expect("JSON");
        assert_eq!(StateFile::from_json(Path::new("state.json"), &text).expect("its own text"), file);

        let mut nan = file.clone();
        nan.state.loss_window = vec![f64::NAN];
        let back = StateFile::from_json(Path::new("state.json"), &nan.to_json().expect("JSON")).expect("NaN is kept");
        assert!(back.state.loss_window[0].is_nan());
    }

    #[test]
    fn other_versions_are_named() {
        let error = StateFile::from_json(Path::new("state.json"), r#"{"format_version": 7, "new": 1}"#);
        let error = error.expect_err("a newer version").to_string();
        assert!(error.contains("must be 1, but is 7"), "{error}");
    }
}
