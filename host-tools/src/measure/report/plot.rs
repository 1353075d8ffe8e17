//! A plot of accuracy over width, with a line for each method.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (940, 520);
/// Width of the plot; the legend is beside it.
const PLOT_WIDTH: u32 = 700;
/// Distinct for colour-blind readers too (Okabe & Ito 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(150, 150, 150),
];

/// A line of the plot. One without points is not drawn, but keeps its colour.
pub struct Curve {
    /// Its name in the legend.
    pub title: &'static str,
    /// Width and accuracy.
    pub points: Vec<(f32, f64)>,
}

/// Draws curves as SVG.
pub fn plot(curves: Vec<Curve>) -> Result<String> {
    let mut svg = String::new();
    draw(curves, &mut svg).map_err(|error| anyhow!("cannot draw the report: {error}"))?;
    Ok(svg)
}

fn draw(curves: Vec<Curve>, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, legend) = area.split_horizontally(PLOT_WIDTH);
    let least = curves.iter().flat_map(|curve| &curve.points).map(|&(k, _)| k).fold(0.5, f32::min);
    let mut chart = ChartBuilder::on(&left)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(least - 0.05..1.05f32, 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("share of inner channels kept, k")
        .y_desc("test accuracy, %")
        .y_label_formatter(&|accuracy| format!("{accuracy:.0}"))
        .label_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let drawn = curves.into_iter().zip(COLOURS).filter(|(curve, _)| !curve.points.is_empty());
    for (row, (Curve { title, points }, colour)) in drawn.enumerate() {
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(4))?;
        let y = 40 + 26 * row as i32;
        legend.draw(&PathElement::new([(0, y), (22, y)], colour.stroke_width(2)))?;
        legend.draw(&Text::new(title, (30, y - 7), ("sans-serif", 15)))?;
    }
    area.present()?;
    Ok(())
}
