//! A transaction as a drawing, SVG: what took time, as bars.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use charts::FONT;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::fixture::Outcome;
use crate::timeline::{Span, Timeline};

/// Draws a transaction: all of it, and below, longer, what lies between the lease's grant and the
/// commit point.
pub(crate) fn transaction(file: &Path, timeline: &Timeline) -> Outcome<()> {
    let root = SVGBackend::new(file, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let (whole, middle) = root.split_vertically(200);
    let title = "One UPDATE in autocommit mode: from the call to the answer";
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
        title,
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
    )?;
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
            charts::BLUE
        } else {
            charts::ORANGE
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
