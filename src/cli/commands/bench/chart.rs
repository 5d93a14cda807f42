//! Share of each op in every measured step, as SVG.

use std::path::Path;

use plotters::prelude::*;

use super::report::{Report, StepRow};
use crate::atomic::AtomicFile;
use crate::{Error, Result};

const WIDTH: u32 = 960; // pixels
const BAR: i32 = 22;
const LEFT: i32 = 230;
const ROW: i32 = 34;
const TOP: i32 = 64;
/// Ops that have a colour of their own; the rest is grey.
const NAMED: usize = 7;

/// Draws the steps as bars of equal length, cut by op.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    let mut svg = String::new();
    draw(&mut svg, report).map_err(|e| Error::data(path, format!("the chart cannot be drawn: {e}")))?;
    let mut file = AtomicFile::create(path)?;
    file.append(svg.as_bytes())?;
    file.commit()
}

/// Names of the ops that take most of all steps together.
fn biggest(report: &Report) -> Vec<String> {
    let mut totals: Vec<(String, f64)> = vec![];
    for (step, op) in report.steps.iter().flat_map(|step| step.ops.iter().map(move |op| (step, op))) {
        let share = op.work.seconds / seconds(step);
        match totals.iter_mut().find(|(name, _)| *name == op.op) {
            Some((_, total)) => *total += share,
            None => totals.push((op.op.clone(), share)),
        }
    }
    totals.sort_by(|a, b| b.1.total_cmp(&a.1));
    totals.into_iter().take(NAMED).map(|(name, _)| name).collect()
}

fn seconds(step: &StepRow) -> f64 {
    step.ops.iter().map(|op| op.work.seconds).sum::<f64>().max(f64::MIN_POSITIVE)
}

fn draw(svg: &mut String, report: &Report) -> Result<(), Box<dyn std::error::Error>> {
    let steps: Vec<&StepRow> = report.steps.iter().filter(|step| step.skipped.is_none()).collect();
    let names = biggest(report);
    let height = (TOP + ROW * steps.len() as i32 + 30 * (1 + names.len() as i32 / 4)) as u32;
    let area = SVGBackend::with_string(svg, (WIDTH, height.max(120))).into_drawing_area();
    area.fill(&WHITE)?;
    let (head, small) = (("sans-serif", 18).into_font(), ("sans-serif", 13).into_font());
    let title = format!("xlnet {} on {}, {}: where a training step goes", report.version, report.name, report.dtype);
    area.draw(&Text::new(title, (16, 16), head))?;
    let color = |op: &str| match names.iter().position(|name| name == op) {
        Some(at) => Palette99::pick(at).to_rgba(),
        None => RGBColor(190, 190, 190).to_rgba(),
    };
    let length = (WIDTH as i32 - LEFT - 110) as f64;
    for (i, step) in steps.iter().enumerate() {
        let y = TOP + ROW * i as i32;
        area.draw(&Text::new(step.label(), (16, y + 4), small.clone()))?;
        let mut from = 0.0;
        // Named ops first, in one order for all bars.
        let mut ops: Vec<_> = step.ops.iter().collect();
        ops.sort_by_key(|op| names.iter().position(|name| *name == op.op).unwrap_or(NAMED));
        for op in ops {
            let to = from + op.work.seconds / seconds(step);
            let corners = [(LEFT + (length * from) as i32, y), (LEFT + (length * to) as i32, y + BAR)];
            area.draw(&Rectangle::new(corners, color(&op.op).filled()))?;
            from = to;
        }
        let text = format!("{:.1} ms", 1e3 * step.work.seconds);
        area.draw(&Text::new(text, (WIDTH as i32 - 100, y + 4), small.clone()))?;
    }
    let legend = names.iter().map(String::as_str).chain(["all other ops"]);
    for (i, name) in legend.enumerate() {
        let (x, y) = (16 + 232 * (i as i32 % 4), TOP + ROW * steps.len() as i32 + 26 * (i as i32 / 4));
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 12)], color(name).filled()))?;
        area.draw(&Text::new(name.to_owned(), (x + 18, y), small.clone()))?;
    }
    area.present()?;
    Ok(())
}
