//! The table as a picture: accuracy over width, a line for each method.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::data_free::DataFree;

/// Width and height in pixels.
const SIZE: (u32, u32) = (860, 520);

/// Draws the report as SVG.
///
/// # Errors
/// The plotting library's.
pub fn plot(report: &DataFree) -> Result<String> {
    let mut svg = String::new();
    draw(report, &mut svg).map_err(|error| anyhow!("cannot draw the report: {error}"))?;
    Ok(svg)
}

fn draw(report: &DataFree, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(52)
        .build_cartesian_2d(0.45f32..1.05f32, 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("share of inner channels kept, k")
        .y_desc("test accuracy, %")
        .label_style(("sans-serif", 14))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (index, (method, points)) in report.curves().into_iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(4))?
            .label(method.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}
