//! Drawings, as SVG: one figure over the number of waiters, a line for each policy.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// A drawing.
#[derive(Debug)]
pub struct Plot {
    /// Above it.
    pub title: &'static str,
    /// Beside the upright axis, with the unit.
    pub unit: &'static str,
    /// Whether the upright axis counts by powers of ten.
    pub is_logarithmic: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// One line of a [`Plot`].
#[derive(Debug)]
pub struct Line {
    /// Beside the drawing.
    pub name: String,
    /// The number of waiters, and the figure.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: u32 = 860;
const HEIGHT: u32 = 360;
const LEGEND: u32 = 190;
const FONT: &str = "sans-serif";

/// In the order of the lines: two of each policy, and one.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x1f, 0x5f, 0xb4),
    RGBColor(0x7f, 0xb2, 0xe5),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0xf5, 0xb3, 0x7a),
    RGBColor(0x88, 0x88, 0x88),
];

/// Draws into a file.
///
/// # Errors
/// If the file cannot be written.
pub fn draw(file: &Path, plot: &Plot) -> Result<(), Box<dyn Error>> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let most = points().fold(2.0_f64, |most, point| most.max(point.0));
    let highest = points().fold(0.0_f64, |highest, point| highest.max(point.1));
    let lowest = (points().map(|point| point.1).filter(|y| *y > 0.0)).fold(highest, f64::min);
    let area = SVGBackend::new(file, (WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let x = (2.0..most * 1.1).log_scale().base(2.0);
    let mut builder = ChartBuilder::on(&area);
    builder
        .caption(plot.title, (FONT, 17))
        .margin(10)
        .margin_right(LEGEND)
        .x_label_area_size(40)
        .y_label_area_size(64);
    if plot.is_logarithmic {
        let y = (lowest / 1.5..highest * 1.5).log_scale();
        lines(builder.build_cartesian_2d(x, y)?, plot)?;
    } else {
        lines(builder.build_cartesian_2d(x, 0.0..highest * 1.1)?, plot)?;
    }
    let (left, mut y) = ((WIDTH - LEGEND) as i32 + 8, 44);
    for (line, colour) in plot.lines.iter().zip(COLOURS) {
        let stroke = [(left, y), (left + 16, y)];
        area.draw(&PathElement::new(stroke, colour.stroke_width(3)))?;
        area.draw(&Text::new(
            line.name.clone(),
            (left + 22, y - 6),
            (FONT, 12),
        ))?;
        y += 20;
    }
    Ok(area.present()?)
}

fn lines<'a, X, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    plot: &Plot,
) -> Result<(), Box<dyn Error>>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc("processes that write without a pause")
        .y_desc(plot.unit)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (line, colour) in plot.lines.iter().zip(COLOURS) {
        let points = line.points.clone();
        chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        let points = line.points.iter();
        chart.draw_series(points.map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    Ok(())
}
