//! What a run reports: a window of steps, log lines, `metrics.jsonl`, TensorBoard, the loss curve.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::append_file::AppendFile;
use super::session::StepResult;
use super::tensorboard::EventWriter;
use crate::atomic::AtomicFile;
use crate::{Error, Result};

/// Losses since the last line of log; saved with checkpoints, so that a line after a resume is the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// One a step.
    pub losses: Vec<f64>,
}

impl Window {
    /// Adds one step; none whose loss is no finite number, which overflowed and changed nothing.
    pub fn add(&mut self, loss: f64) {
        if loss.is_finite() {
            self.losses.push(loss);
        }
    }
    /// Mean loss; the original divides the first window by one too many, we do not.
    pub fn mean(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Updates done.
    pub step: u64,
    /// Mean training loss since the last line, nats a predicted token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate of the last update.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Global norm of the last gradient, before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gnorm: Option<f64>,
    /// Input tokens a second since the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// What the last loss was multiplied by while gradients were computed; none where it is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// Mean held-out loss, nats a predicted token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

impl Row {
    /// The original's line of log, with tokens a second at its end.
    pub fn log_line(&self) -> String {
        let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let (step, loss) = (self.step, number(self.loss));
        let (gnorm, lr, speed) = (number(self.gnorm), number(self.lr), number(self.tokens_per_s));
        let (pplx, bpc) = (loss.exp(), loss / std::f64::consts::LN_2);
        format!(
            "[{step}] | gnorm {gnorm:.2} lr {lr:8.6} | loss {loss:.2} | pplx {pplx:>7.2}, bpc {bpc:>7.4} | tokens/s {speed:.0}"
        )
    }
}

/// Counts tokens against the clock.
#[derive(Debug)]
pub struct Speed {
    since: Instant,
    tokens: u64,
}

impl Default for Speed {
    fn default() -> Self {
        Speed { since: Instant::now(), tokens: 0 }
    }
}
impl Speed {
    /// Adds the tokens of one step.
    pub fn add(&mut self, tokens: u64) {
        self.tokens += tokens;
    }
    /// Tokens a second so far.
    pub fn rate(&self) -> f64 {
        self.tokens as f64 / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

/// Writes a run's metrics into a directory. What a full disk refuses is kept and written later.
#[derive(Debug)]
pub struct MetricsWriter {
    file: AppendFile,
    directory: PathBuf,
    events: Option<EventWriter>,
    rows: Vec<Row>,
}

impl MetricsWriter {
    /// Opens the metrics of a run that has done `step` updates: lines beyond are of a future that is run again, and go.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn open(directory: &Path, step: u64, tensorboard: bool) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|e| Error::io("create", directory, e))?;
        let path = directory.join("metrics.jsonl");
        let rows = keep_until(&path, step)?;
        let file = AppendFile::open(&path)?;
        let events = tensorboard.then(|| EventWriter::open(directory, step)).transpose()?;
        Ok(MetricsWriter { file, directory: directory.to_owned(), events, rows })
    }
    /// Appends one line and its events.
    ///
    /// # Errors
    /// When they cannot be written now; they are tried again with the next.
    pub fn write(&mut self, row: Row) -> Result<()> {
        self.rows.push(row);
        let mut line = serde_json::to_vec(&row).map_err(|e| Error::data(self.file.path(), e.to_string()))?;
        line.push(b'\n');
        let written = self.file.append(&line);
        let Some(events) = &mut self.events else { return written };
        let tags = [
            ("train/total_loss", row.loss),
            ("train/lr", row.lr),
            ("train/gnorm", row.gnorm),
            ("train/tokens_per_s", row.tokens_per_s),
            ("train/loss_scale", row.loss_scale),
            ("eval/loss", row.eval_loss),
        ];
        let values: Vec<_> = tags.iter().filter_map(|&(tag, value)| Some((tag, value?))).collect();
        written.and(events.scalars(row.step, &values))
    }
    /// Writes what failed before.
    ///
    /// # Errors
    /// When it fails again.
    pub fn flush(&mut self) -> Result<()> {
        let events = self.events.as_mut().map_or(Ok(()), |events| events.file().flush());
        self.file.flush().and(events)
    }
    /// Handles by which another thread can wait until all lines are on the disk.
    pub fn handles(&mut self) -> Vec<File> {
        let events = self.events.as_mut().map(|events| events.file().handle());
        std::iter::once(self.file.handle()).chain(events).flatten().collect()
    }
    /// Draws `loss.svg` anew.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn plot(&self) -> Result<()> {
        #[cfg(feature = "cli")]
        super::plot::write_loss_curve(&self.directory.join("loss.svg"), &self.rows)?;
        Ok(())
    }
    /// All lines so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
    /// Where they go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The line of a finished window.
pub fn row(result: &StepResult, window: &Window, speed: &Speed) -> Row {
    Row {
        step: result.step,
        loss: (!window.losses.is_empty()).then(|| window.mean()),
        lr: Some(result.learning_rate),
        gnorm: Some(result.gradient_norm).filter(|norm| norm.is_finite()),
        tokens_per_s: Some(speed.rate()),
        loss_scale: Some(result.loss_scale).filter(|&scale| scale != 1.0),
        eval_loss: None,
    }
}

/// Reads the lines up to `step` and drops all others from the file. Lines that are no metrics, such as one cut by a
/// power failure, go too.
fn keep_until(path: &Path, step: u64) -> Result<Vec<Row>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let parsed = text.lines().filter_map(|line| Some((line, serde_json::from_str::<Row>(line).ok()?)));
    let (lines, rows): (Vec<&str>, Vec<Row>) = parsed.filter(|(_, row)| row.step <= step).unzip();
    let kept: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if kept.as_bytes() != bytes {
        let mut file = AtomicFile::create(path)?;
        file.append(kept.as_bytes())?;
        file.commit()?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_s_line() {
        let row = Row {
            step: 1000,
            loss: Some(2.0),
            lr: Some(1e-4),
            gnorm: Some(0.987),
            tokens_per_s: Some(1234.4),
            ..Row::default()
        };
        let expected = "[1000] | gnorm 0.99 lr 0.000100 | loss 2.00 | pplx    7.39, bpc  2.8854 | tokens/s 1234";
        assert_eq!(row.log_line(), expected);
    }
    #[test]
    fn the_mean_divides_by_what_was_summed() {
        let mut window = Window::default();
        window.add(10.0);
        window.add(f64::INFINITY);
        window.add(12.0);
        assert_eq!(window.mean(), 11.0);
    }
    #[test]
    fn a_resumed_run_drops_what_it_runs_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = MetricsWriter::open(dir.path(), 0, false).unwrap();
        for step in [2, 4, 6] {
            metrics.write(Row { step, loss: Some(1.0), ..Row::default() }).unwrap();
        }
        let path = dir.path().join("metrics.jsonl");
        let mut cut = std::fs::read_to_string(&path).unwrap();
        cut.push_str("{\"step\":");
        std::fs::write(&path, cut).unwrap();
        let mut metrics = MetricsWriter::open(dir.path(), 4, true).unwrap();
        assert_eq!(metrics.rows().iter().map(|r| r.step).collect::<Vec<_>>(), [2, 4]);
        metrics.write(Row { step: 6, eval_loss: Some(3.0), ..Row::default() }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":2,\"loss\":1.0}\n{\"step\":4,\"loss\":1.0}\n{\"step\":6,\"eval_loss\":3.0}\n");
    }
    /// Whatever happened to the file, a run starts, and goes on below lines that can all be read.
    #[test]
    fn damaged_metrics_are_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let whole: String = (1..6).map(|step| format!("{{\"step\":{step},\"loss\":1.5}}\n")).collect();
        for at in 0..whole.len() {
            let mut flipped = whole.clone().into_bytes();
            flipped[at] ^= 1 << (at % 8);
            for bytes in [&whole.as_bytes()[..at], &flipped] {
                std::fs::write(&path, bytes).unwrap();
                let mut metrics = MetricsWriter::open(dir.path(), 5, false).unwrap();
                assert!(metrics.rows().len() >= (at / 22).min(4).saturating_sub(1), "{at}");
                metrics.write(Row { step: 6, ..Row::default() }).unwrap();
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.lines().all(|line| serde_json::from_str::<Row>(line).is_ok()), "{at}: {text}");
                assert!(text.ends_with("{\"step\":6}\n"));
            }
        }
    }
}
