//! Plots of accuracy, with a line for each method.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (940, 520);
/// Width of the plot; the legend is beside it.
const PLOT_WIDTH: u32 = 700;
/// Distinct for colour-blind readers too (Okabe & Ito 2008).
const COLOURS: [RGBColor; 9] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(240, 228, 66),
    RGBColor(150, 150, 150),
];
/// Accuracies below this are not drawn if most are far above.
const STEP: f64 = 10.0;

/// A line of a plot. One without points is not drawn, but keeps its colour.
pub struct Curve {
    /// Its name in the legend.
    pub title: String,
    /// Places and accuracies in percent.
    pub points: Vec<(f64, f64)>,
}

/// Accuracy over something.
pub struct Plot {
    /// What the x-axis is.
    pub x: &'static str,
    pub curves: Vec<Curve>,
}

impl Plot {
    /// Draws it as SVG.
    pub fn svg(self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| anyhow!("cannot draw the report: {error}"))?;
        Ok(svg)
    }

    /// The range of the accuracies: whole tens around the better half of all points.
    fn accuracies(&self) -> std::ops::Range<f64> {
        let mut all: Vec<f64> = self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.1).collect();
        all.sort_by(f64::total_cmp);
        let lowest = |share: f64| all.get((all.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        // A few students far below, such as at the start of a training, do not press the others together.
        let least = if lowest(0.0) + 3.0 * STEP < lowest(0.3) { lowest(0.3) - STEP } else { lowest(0.0) };
        let most = all.last().copied().unwrap_or(100.0);
        (least / STEP).floor() * STEP..((most / STEP).floor() + 1.0) * STEP
    }

    fn draw(self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, legend) = area.split_horizontally(PLOT_WIDTH);
        let places = || self.curves.iter().flat_map(|curve| &curve.points).map(|point| point.0);
        let (least, most) = (places().fold(f64::INFINITY, f64::min), places().fold(f64::NEG_INFINITY, f64::max));
        let (least, most) = if least < most { (least, most) } else { (least.min(1.0) - 0.5, least.min(1.0) + 0.5) };
        let (edge, accuracies) = (0.05 * (most - least), self.accuracies());
        let mut chart = ChartBuilder::on(&left)
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(52)
            .build_cartesian_2d(least - edge..most + edge, accuracies.clone())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc("test accuracy, %")
            .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
            .label_style(("sans-serif", 14))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let drawn = self.curves.into_iter().zip(COLOURS).filter(|(curve, _)| !curve.points.is_empty());
        for (row, (Curve { title, points }, colour)) in drawn.enumerate() {
            let inside = points.into_iter().filter(|(_, accuracy)| accuracies.contains(accuracy));
            chart.draw_series(LineSeries::new(inside, colour.stroke_width(2)).point_size(4))?;
            let y = 40 + 26 * row as i32;
            legend.draw(&PathElement::new([(0, y), (22, y)], colour.stroke_width(2)))?;
            legend.draw(&Text::new(title, (30, y - 7), ("sans-serif", 15)))?;
        }
        area.present()?;
        Ok(())
    }
}
