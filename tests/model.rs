//! Programs of whole models, without running them.

use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::model::heads::{SummaryOptions, SummaryType};
use xlnet::model::{QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::step::{Objective, StepOptions, StepProgram};

fn inference(config: &XlnetConfig, objective: Objective, query: QueryKind) -> StepProgram {
    let transformer = TransformerOptions { batch: 1, length: 8, query, ..Default::default() };
    let options = StepOptions { transformer, objective, accumulate: 1, float: DType::F32, optimizer: None };
    StepProgram::build(config, &options).expect("a published model")
}

#[test]
fn parameter_counts() {
    let summary = SummaryOptions { kind: SummaryType::Last, projection: true };
    for (config, pretraining, classifying) in [
        (XlnetConfig::base(), 116_750_336, 117_308_160),
        (XlnetConfig::large(), 360_300_800, 361_317_376),
        (XlnetConfig::chinese_base(), 116_750_336, 117_308_160),
        (XlnetConfig::chinese_mid(), 208_891_904, 209_449_728),
    ] {
        let lm = inference(&config, Objective::LanguageModel, QueryKind::Targets(2));
        assert_eq!(lm.parameter_count(), pretraining);
        let regression = inference(&config, Objective::Regression { summary }, QueryKind::None);
        assert_eq!(regression.parameter_count(), classifying + config.d_model + 1);
    }
    // What the original logs for Large with a regression head.
    let large = inference(&XlnetConfig::large(), Objective::Regression { summary }, QueryKind::None);
    assert_eq!(large.parameter_count(), 361_318_401);
}

#[test]
fn devices_that_do_not_exist_say_so() {
    for (text, missing) in [("wgpu", "WGSL"), ("wgpu:1", "WGSL"), ("cuda:0", "PTX")] {
        let error = text.parse::<Device>().and_then(Device::resolve).expect_err("no such backend yet").to_string();
        assert!(error.contains(missing) && error.contains("--device cpu"), "{error}");
    }
    for text in ["", "tpu", "cpu:1", "wgpu:x", "cuda:-1", "auto:0"] {
        let error = text.parse::<Device>().expect_err("no device").to_string();
        assert!(error.contains("expected auto"), "{error}");
    }
}
