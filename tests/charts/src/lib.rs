//! The charts of the reports, as SVG: a figure over the number of processes, a line for each of what
//! is compared.

use std::error::Error;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;

/// What a chart is of.
#[derive(Debug, Clone, Copy)]
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// What the processes do, for the level axis: `processes`.
    pub processes: &'a str,
    /// The unit of the figure, for the upright axis.
    pub unit: &'a str,
    /// Whether the upright axis has powers of ten; zeros stand at its foot.
    pub is_logarithmic: bool,
}

/// One line of a [`Chart`], of a point or more.
#[derive(Debug)]
pub struct Line {
    /// Beside the chart.
    pub name: String,
    /// The same in all charts of a report.
    pub colour: RGBColor,
    /// Numbers of processes, and the figure.
    pub points: Vec<(f64, f64)>,
}

/// A colour for a line.
pub const BLUE: RGBColor = RGBColor(0x1f, 0x5f, 0xb4);
/// Apart from [`BLUE`], to the colour-blind as well.
pub const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
/// For what the others are compared with.
pub const GREY: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// Of all text in drawings.
pub const FONT: &str = "sans-serif";

const WIDTH: u32 = 860;
const HEIGHT: u32 = 380;
/// The width of what names the lines.
const LEGEND: u32 = 210;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Chart<'_> {
    /// The text of the SVG file. The number of processes doubles from tick to tick.
    ///
    /// # Errors
    /// Where plotters meets one; drawing into a text, it should not.
    pub fn svg(self, lines: &[Line]) -> Result<String, Box<dyn Error>> {
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        self.draw(&area, lines)?;
        area.present()?;
        drop(area);
        Ok(text)
    }

    fn draw(self, area: &Area<'_>, lines: &[Line]) -> Result<(), Box<dyn Error>> {
        area.fill(&WHITE)?;
        let points = lines.iter().flat_map(|line| &line.points);
        let x = points.clone().map(|point| point.0);
        let y = points.map(|point| point.1);
        let most = x.clone().fold(1.0, f64::max);
        let processes = x.fold(most, f64::min)..most * 1.1;
        let highest = y.clone().fold(0.0, f64::max);
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(self.title, (FONT, 18))
            .margin(12)
            .margin_right(LEGEND)
            .x_label_area_size(42)
            .y_label_area_size(64);
        let x = processes.log_scale().base(2.0);
        if self.is_logarithmic {
            let lowest = y.filter(|y| *y > 0.0).fold(highest, f64::min);
            let y = (lowest / 1.5..highest * 1.5).log_scale();
            self.draw_lines(builder.build_cartesian_2d(x, y)?, lines)?;
        } else {
            let y = 0.0..highest * 1.1;
            self.draw_lines(builder.build_cartesian_2d(x, y)?, lines)?;
        }
        legend(area, lines)
    }

    fn draw_lines<'a, X, Y>(
        self,
        mut context: ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>,
        lines: &[Line],
    ) -> Result<(), Box<dyn Error>>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        context
            .configure_mesh()
            .x_desc(self.processes)
            .y_desc(self.unit)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for line in lines {
            let stroke = line.colour.stroke_width(2);
            context.draw_series(LineSeries::new(line.points.iter().copied(), stroke))?;
            let dot = |&point| Circle::new(point, 3, line.colour.filled());
            context.draw_series(line.points.iter().map(dot))?;
        }
        Ok(())
    }
}

/// Names the lines, beside them: nothing is hidden.
fn legend(area: &Area<'_>, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let (left, mut y) = ((WIDTH - LEGEND) as i32 + 8, 50);
    for line in lines {
        let stroke = [(left, y), (left + 16, y)];
        area.draw(&PathElement::new(stroke, line.colour.stroke_width(3)))?;
        let name = line.name.clone();
        area.draw(&Text::new(name, (left + 22, y - 6), (FONT, 12)))?;
        y += 20;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Chart<'_> = Chart {
        title: "Waits",
        processes: "processes that write",
        unit: "ms",
        is_logarithmic: true,
    };

    fn line(name: &str, colour: RGBColor, points: &[(f64, f64)]) -> Line {
        Line {
            name: name.to_owned(),
            colour,
            points: points.to_vec(),
        }
    }

    #[test]
    fn a_chart_names_itself_its_axes_and_its_lines() {
        let paced = line("paced", BLUE, &[(1.0, 3.0), (8.0, 70.0)]);
        let python = line("Python package", GREY, &[(1.0, 5.0), (8.0, 900.0)]);
        let svg = WAITS.svg(&[paced, python]).unwrap();
        for name in [
            "Waits",
            "processes that write",
            "ms",
            "paced",
            "Python package",
        ] {
            assert!(svg.contains(&format!("\n{name}\n")), "{name}: {svg}");
        }
    }

    #[test]
    fn every_point_is_drawn_in_its_lines_colour() {
        let paced = line("paced", BLUE, &[(1.0, 3.0), (2.0, 7.0), (4.0, 8.0)]);
        let python = line("Python package", ORANGE, &[(1.0, 5.0), (2.0, 9.0)]);
        let svg = WAITS.svg(&[paced, python]).unwrap();
        let dots = |colour: &str| {
            let dots = svg.lines().filter(|line| line.starts_with("<circle"));
            dots.filter(|line| line.contains(colour)).count()
        };
        assert_eq!((dots("#1F5FB4"), dots("#D95F02")), (3, 2), "{svg}");
    }

    #[test]
    fn zeros_do_not_stretch_a_logarithmic_axis() {
        let waits = line("paced", BLUE, &[(1.0, 0.0), (2.0, 20.0), (4.0, 2_000.0)]);
        let svg = WAITS.svg(&[waits]).unwrap();
        assert!(svg.contains("\n100.0\n"), "{svg}");
        assert!(!svg.contains("\n0.1\n"), "{svg}");
    }
}
