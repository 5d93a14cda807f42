//! A small language model that learns one batch by heart: what runs of whole steps in several precisions start from.

use xlnet::Result;
use xlnet::backend::Device;
use xlnet::config::XlnetConfig;
use xlnet::model::{MaskKind, QueryKind, TransformerOptions};
use xlnet::tensor::DType;
use xlnet::train::init::{InitOptions, initialize};
use xlnet::train::loss_scale::DynamicScale;
use xlnet::train::schedule::Schedule;
use xlnet::train::session::Session;
use xlnet::train::step::{Objective, OptimizerOptions, StepOptions};

/// Rows of the batch, in two micro-batches.
const ROWS: usize = 8;
/// Targets of a row.
const TARGETS: usize = 5;

/// What differs from run to run.
#[derive(Clone, Debug)]
pub struct Learning {
    /// Sizes; 50 tokens or more.
    pub model: XlnetConfig,
    /// Tokens of a row, more than 12.
    pub length: usize,
    /// Dropout of hidden states and attention.
    pub dropout: f32,
    /// Half precision of operands of products.
    pub products: Option<DType>,
    /// As the optimiser's.
    pub loss_scale: f64,
}

impl Learning {
    /// A session with weights, empty memories and the batch.
    ///
    /// # Errors
    /// Those of the device.
    pub fn open(&self, device: Device) -> Result<Session> {
        let &Learning { length, dropout, products, loss_scale, .. } = self;
        let transformer = TransformerOptions {
            batch: ROWS / 2,
            length,
            memory: 8,
            mem_len: 8,
            mask: MaskKind::Ranks,
            query: QueryKind::Targets(TARGETS),
            dropout,
            dropatt: dropout,
            products,
            ..TransformerOptions::default()
        };
        let schedule = Schedule { learning_rate: 5e-3, ..Schedule::default() };
        let optimizer = Some(OptimizerOptions { schedule, loss_scale, ..OptimizerOptions::default() });
        let objective = Objective::LanguageModel;
        let options = StepOptions { transformer, objective, accumulate: 2, float: DType::F32, optimizer };
        let mut session = Session::new(&self.model, options, device, 1)?;
        let (program, exec) = session.parts();
        initialize(exec, program, &InitOptions::default())?;
        session.reset_memory()?;
        let ids: Vec<i32> = (0..ROWS * length).map(|i| (i * i + i / 7) as i32 % 50).collect();
        let ranks: Vec<i32> = (0..ROWS * length).map(|i| (i % length * 7 % length) as i32).collect();
        let positions: Vec<i32> = (0..ROWS * TARGETS).map(|i| (i % TARGETS * 3) as i32).collect();
        let wanted: Vec<i32> = (0..ROWS * TARGETS).map(|i| ids[i / TARGETS * length + i % TARGETS * 3]).collect();
        session.input_i32("input_ids", &ids)?;
        session.input_i32("query_rank", &ranks)?;
        session.input_i32("key_rank", &ranks)?;
        session.input_i32("target_positions", &positions)?;
        session.input_i32("targets", &wanted)?;
        session.input_f32("target_weights", &[1.0 / (ROWS * TARGETS) as f32; ROWS * TARGETS])?;
        Ok(session)
    }
}

/// The largest scale there is, with which gradients of losses overflow f16.
///
/// # Panics
/// When a checkpoint could not hold it.
pub fn largest_scale() -> Option<DynamicScale> {
    Some(serde_json::from_str(r#"{"scale": 16777216.0, "good_steps": 0}"#).expect("a state"))
}
