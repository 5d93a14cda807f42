//! Loss curves as SVG.

use std::path::Path;

use plotters::prelude::*;

use super::metrics::Row;
use crate::atomic::AtomicFile;
use crate::{Error, Result};

const SIZE: (u32, u32) = (960, 540); // pixels

/// Draws training loss, and held-out loss where there is one, over steps.
///
/// # Errors
/// When the file cannot be written.
pub fn write_loss_curve(path: &Path, rows: &[Row]) -> Result<()> {
    let curve = |pick: fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |row: &Row| pick(row).filter(|loss| loss.is_finite()).map(|loss| (row.step as f64, loss));
        rows.iter().filter_map(point).collect()
    };
    let curves = [("train", BLUE, curve(|row| row.loss)), ("held out", RED, curve(|row| row.eval_loss))];
    let points = || curves.iter().flat_map(|(_, _, points)| points);
    if points().next().is_none() {
        return Ok(());
    }
    let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let margin = ((high - low) * 0.05).max(0.05);
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let mut svg = String::new();
    let axes = (0.0..last, low - margin..high + margin);
    draw(&mut svg, axes, &curves).map_err(|e| Error::data(path, format!("the loss curve cannot be drawn: {e}")))?;
    let mut file = AtomicFile::create(path)?;
    file.append(svg.as_bytes())?;
    file.commit()
}

type Curve = (&'static str, RGBColor, Vec<(f64, f64)>);

fn draw(
    svg: &mut String,
    (x, y): (std::ops::Range<f64>, std::ops::Range<f64>),
    curves: &[Curve],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart =
        ChartBuilder::on(&area).margin(16).x_label_area_size(40).y_label_area_size(56).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("step")
        .y_desc("loss, nats a predicted token")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.2}"))
        .draw()?;
    for (name, color, points) in curves.iter().filter(|(_, _, points)| !points.is_empty()) {
        let (color, points) = (*color, points.clone());
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_are_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loss.svg");
        write_loss_curve(&path, &[]).unwrap();
        assert!(!path.exists(), "no points, no file");
        let row = |step, loss, eval_loss| Row { step, loss, eval_loss, ..Row::default() };
        write_loss_curve(&path, &[row(1, Some(3.0), None), row(2, Some(2.0), Some(2.5)), row(3, None, Some(f64::NAN))])
            .unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("held out") && svg.matches("<polyline").count() >= 2);
        write_loss_curve(&path, &[row(5, Some(3.0), None)]).unwrap(); // one point makes no empty range
    }
}
