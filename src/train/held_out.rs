//! Held-out loss during training, measured beside it: by a program, memories and a place in the data of its own.

use std::sync::atomic::{AtomicBool, Ordering};

use super::run_plan::RunPlan;
use super::session::Session;
use crate::data::loader::{Loader, LoaderOptions, Position};
use crate::{Error, Result};

/// Held-out data and the program without gradients that reads it.
pub(super) struct HeldOut {
    loader: Loader,
    session: Session,
    steps: u64,
}

impl HeldOut {
    /// `None` when the run has no held-out data.
    pub fn open(plan: &RunPlan) -> Result<Option<Self>> {
        let (Some(set), Some(options)) = (&plan.held_out, plan.eval_options()) else { return Ok(None) };
        let reading = LoaderOptions { prefetch: 0, shuffle_files: false, ..plan.loader() };
        let loader = Loader::open(set, &reading)?;
        let session = Session::new(&plan.model, options, plan.device, plan.config.seed)?;
        let all = loader.steps_per_epoch();
        let steps = if plan.config.eval_steps == 0 { all } else { plan.config.eval_steps.min(all) };
        Ok(Some(HeldOut { loader, session, steps }))
    }
    /// Mean loss over predicted tokens of the same first batches every time, memories from zeros; reads nothing but the
    /// weights of `trained`. `None` when `stop` was set meanwhile.
    pub fn loss(&mut self, trained: &mut Session, stop: &AtomicBool) -> Result<Option<f64>> {
        let pairs: Vec<_> =
            trained.program().params.iter().copied().zip(self.session.program().params.iter().copied()).collect();
        for (from, to) in pairs {
            let values = trained.exec().download_f32(from)?;
            self.session.exec().upload_f32(to, &values)?;
        }
        self.session.reset_memory()?;
        self.loader.seek(Position::default());
        let (mut sum, mut targets) = (0.0, 0.0);
        for _ in 0..self.steps {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = self.loader.next_batch()?;
            let weight: f64 = batch.target_mask.iter().map(|&w| f64::from(w)).sum();
            if weight > 0.0 {
                self.session.upload_batch(&batch)?;
                sum += weight * self.session.evaluate()?;
                targets += weight;
            }
        }
        if targets == 0.0 {
            return Err(Error::config("the held-out batches have no predicted token; raise eval_steps"));
        }
        Ok(Some(sum / targets))
    }
}
