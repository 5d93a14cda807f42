//! Programs by task and size, for `program` and `memory`.

use std::path::Path;

use super::args::{Recomputation, ShapeArgs, Task};
use crate::config::XlnetConfig;
use crate::model::heads::{SummaryOptions, SummaryType};
use crate::model::{MaskKind, QueryKind, Recompute, TransformerOptions};
use crate::tensor::DType;
use crate::train::loss_scale::products;
use crate::train::step::{Objective, OptimizerOptions, StepOptions, StepProgram};
use crate::{Error, Result};

/// The model called `name`, or that of a file.
pub fn model(name: &str) -> Result<XlnetConfig> {
    match XlnetConfig::named(name) {
        Some(config) => Ok(config),
        None if Path::new(name).is_dir() => XlnetConfig::read(&Path::new(name).join("config.json")),
        None if name.contains(['/', '\\', '.']) || Path::new(name).exists() => XlnetConfig::read(Path::new(name)),
        None => Err(Error::config(format!(
            "there is no model {name:?}; use base, large, chinese-base, chinese-mid or a JSON file with sizes"
        ))),
    }
}

/// Sequences that one example has.
pub fn rows_per_example(task: Task) -> usize {
    if task == Task::Race { 4 } else { 1 }
}

/// The program of `task` on `batch` examples.
pub fn build(config: &XlnetConfig, task: Task, shape: &ShapeArgs, batch: usize) -> Result<StepProgram> {
    StepProgram::build(config, &options(task, shape, batch)?)
}

/// What shapes that program.
pub fn options(task: Task, shape: &ShapeArgs, batch: usize) -> Result<StepOptions> {
    let ShapeArgs { seq_len, accumulate, inference, .. } = *shape;
    if accumulate == 0 || batch == 0 || !batch.is_multiple_of(accumulate) {
        return Err(Error::config(format!("accumulate must divide the batch {batch}, but is {accumulate}")));
    }
    let pretrain = task == Task::Pretrain;
    let mem_len = shape.mem_len.unwrap_or(if pretrain { 384 } else { 0 });
    let targets = shape.num_predict.unwrap_or(seq_len / 6).max(1);
    let dropout = match shape.dropout {
        _ if inference => 0.0,
        Some(rate) => rate,
        None => {
            if pretrain {
                0.0
            } else {
                0.1
            }
        }
    };
    let micro = batch / accumulate * rows_per_example(task);
    let transformer = TransformerOptions {
        batch: micro,
        length: seq_len,
        memory: mem_len,
        mem_len,
        reuse_len: pretrain.then_some(seq_len / 2),
        bi_data: pretrain && micro.is_multiple_of(2),
        mask: if pretrain { MaskKind::Ranks } else { MaskKind::Padding },
        query: if pretrain { QueryKind::Targets(targets) } else { QueryKind::None },
        dropout,
        dropatt: dropout,
        products: products(shape.bf16, shape.f16),
        recompute: match shape.recompute {
            Recomputation::None => Recompute::None,
            Recomputation::Layer => Recompute::Layer,
        },
        ..TransformerOptions::default()
    };
    let summary = SummaryOptions { kind: SummaryType::Last, projection: true };
    let (answerable, answer_bias) = (true, false);
    let objective = match task {
        Task::Pretrain => Objective::LanguageModel,
        Task::Classify => Objective::Classification { classes: 2, summary },
        Task::Squad if inference => Objective::SpanPrediction { answerable, answer_bias },
        Task::Squad => Objective::Span { answerable, answer_bias },
        Task::Race => Objective::Choice { choices: 4, summary },
    };
    Ok(StepOptions {
        transformer,
        objective,
        accumulate,
        float: DType::F32,
        optimizer: (!inference).then(OptimizerOptions::default),
    })
}
