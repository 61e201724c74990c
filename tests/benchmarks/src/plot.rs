//! Drawings, as SVG: curves over the number of processes, and transactions as bars on lines.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::timeline::{Span, Timeline};
use crate::world::Outcome;

/// One line of a drawing.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What is drawn over the number of processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axes<'a> {
    pub(crate) title: &'a str,
    pub(crate) y: &'a str,
    /// Where the y axis has powers of ten.
    pub(crate) is_logarithmic: bool,
}

/// In the order of the curves.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0x1f, 0x5f, 0xb4),
    RGBColor(0x6b, 0xa3, 0xd6),
    RGBColor(0xd9, 0x5f, 0x02),
    RGBColor(0xf0, 0xa6, 0x5a),
];

/// The width of a drawing of curves, and of what names them beside it.
const WIDTH: u32 = 860;
const LEGEND: u32 = 210;

const FONT: &str = "sans-serif";

/// Draws curves over the number of processes, which doubles from tick to tick.
pub(crate) fn curves(file: &Path, axes: Axes<'_>, curves: &[Curve]) -> Outcome<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = points().fold(1.0_f64, |most, point| most.max(point.0));
    let highest = points().fold(0.0_f64, |highest, point| highest.max(point.1));
    let lowest = points().fold(f64::INFINITY, |lowest, point| lowest.min(point.1));
    let root = SVGBackend::new(file, (WIDTH, 380)).into_drawing_area();
    let drawn = (|| -> Result<(), Box<dyn Error>> {
        root.fill(&WHITE)?;
        let x = (1.0..most * 1.1).log_scale().base(2.0);
        let mut builder = ChartBuilder::on(&root);
        builder
            .caption(axes.title, (FONT, 18))
            .margin(12)
            .margin_right(LEGEND)
            .x_label_area_size(42)
            .y_label_area_size(64);
        if axes.is_logarithmic {
            let y = (lowest / 1.5..highest * 1.5).log_scale();
            lines(builder.build_cartesian_2d(x, y)?, axes, curves)?;
        } else {
            lines(
                builder.build_cartesian_2d(x, 0.0..highest * 1.1)?,
                axes,
                curves,
            )?;
        }
        legend(&root, curves)
    })();
    drawn?;
    Ok(root.present()?)
}

/// Names the curves, beside them: nothing is hidden.
fn legend(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    curves: &[Curve],
) -> Result<(), Box<dyn Error>> {
    let (left, mut y) = ((WIDTH - LEGEND) as i32 + 8, 50);
    for (curve, colour) in curves.iter().zip(COLOURS) {
        area.draw(&PathElement::new(
            [(left, y), (left + 16, y)],
            colour.stroke_width(3),
        ))?;
        area.draw(&Text::new(
            curve.name.clone(),
            (left + 22, y - 6),
            (FONT, 12),
        ))?;
        y += 20;
    }
    Ok(())
}

fn lines<'a, X, Y>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
    axes: Axes<'_>,
    curves: &[Curve],
) -> Result<(), Box<dyn Error>>
where
    X: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .x_desc("processes")
        .y_desc(axes.y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        chart.draw_series(LineSeries::new(
            curve.points.clone(),
            colour.stroke_width(2),
        ))?;
        chart.draw_series(
            (curve.points.iter()).map(|&point| Circle::new(point, 3, colour.filled())),
        )?;
    }
    Ok(())
}

/// Draws a transaction: all of it, and below, longer, what lies between the lease's grant and the
/// commit point.
pub(crate) fn transaction(file: &Path, timeline: &Timeline) -> Outcome<()> {
    let root = SVGBackend::new(file, (900, 560)).into_drawing_area();
    let drawn = (|| -> Result<(), Box<dyn Error>> {
        root.fill(&WHITE)?;
        let (whole, middle) = root.split_vertically(200);
        let title = format!(
            "One UPDATE in autocommit mode, {}: from the call to the answer",
            timeline.peer.name()
        );
        let end = timeline
            .spans
            .iter()
            .fold(timeline.answered, |end, span| end.max(span.to));
        let rows = |spans: &[&Span]| {
            let mut names = Vec::new();
            if spans.iter().any(|span| span.is_request) {
                names.push("request".to_owned());
            }
            for span in spans.iter().filter(|span| !span.is_request) {
                if !names.contains(&span.name) {
                    names.push(span.name.clone());
                }
            }
            names
        };
        let all: Vec<_> = timeline.spans.iter().collect();
        let two_rows = ["requests".to_owned(), "files".to_owned()];
        bars(
            &whole,
            &title,
            0..end,
            timeline.answered,
            &all,
            &two_rows,
            |span| usize::from(!span.is_request),
        )?;
        let range = timeline.critical();
        let inside: Vec<_> = (all.iter().copied())
            .filter(|span| span.from < range.end && span.to > range.start)
            .collect();
        let names = rows(&inside);
        let title = "Between the lease's grant and the commit point";
        bars(
            &middle,
            title,
            range,
            timeline.answered,
            &inside,
            &names,
            |span| {
                let row = (names.iter()).position(|name| !span.is_request && *name == span.name);
                row.unwrap_or(0)
            },
        )
    })();
    drawn?;
    Ok(root.present()?)
}

fn bars(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    range: Range<u64>,
    answered: u64,
    spans: &[&Span],
    rows: &[String],
    row_of: impl Fn(&Span) -> usize,
) -> Result<(), Box<dyn Error>> {
    let millis = |micros: u64| micros as f64 / 1e3;
    let x = millis(range.start)..millis(range.end);
    let height = rows.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(130)
        .build_cartesian_2d(x.clone(), 0.0..height)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_desc("ms since the call")
        .light_line_style(TRANSPARENT)
        .draw()?;
    let bar = |span: &Span| {
        let top = height - row_of(span) as f64;
        let colour = if span.is_request {
            COLOURS[1]
        } else {
            COLOURS[3]
        };
        let (from, to) = (millis(span.from).max(x.start), millis(span.to).min(x.end));
        // What is too short to be seen is drawn as wide as a line.
        let to = to.max(from + (x.end - x.start) / 800.0);
        Rectangle::new([(from, top - 0.2), (to, top - 0.8)], colour.filled())
    };
    chart.draw_series(spans.iter().map(|span| bar(span)))?;
    if range.contains(&answered) {
        let at = millis(answered);
        chart.draw_series(LineSeries::new([(at, 0.0), (at, height)], &BLACK))?;
    }
    for span in spans
        .iter()
        .filter(|span| span.is_request && span.from >= range.start)
    {
        let top = height - row_of(span) as f64;
        let text = Text::new(
            span.name.clone(),
            (millis(span.from) + (x.end - x.start) / 100.0, top - 0.35),
            (FONT, 13).into_font().color(&WHITE),
        );
        chart.draw_series([text])?;
    }
    let plane = chart.plotting_area();
    for (row, name) in rows.iter().enumerate() {
        let (_, y) = plane.map_coordinate(&(x.start, height - row as f64 - 0.5));
        let (_, top) = area.get_base_pixel();
        let place = (12, y - top - 7);
        area.draw(&Text::new(name.clone(), place, (FONT, 12)))?;
    }
    Ok(())
}
