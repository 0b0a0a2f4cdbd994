//! The picture: for each case, pods made and jobs ended over time, of the operator and of the bare client.

use anyhow::anyhow;
use plotters::{
    coord::Shift,
    prelude::{
        BLACK, BLUE, ChartBuilder, Color, DrawingArea, IntoDrawingArea, LineSeries, PathElement, RED,
        SVGBackend, SeriesLabelPosition, WHITE,
    },
    style::RGBColor,
};

use crate::{scenario::Case, stats::count};

/// Size of one case's part, in pixels.
const SIZE: (u32, u32) = (900, 320);
/// Points of a curve; more can't be distinguished.
const POINTS: usize = 400;

/// All cases below each other.
///
/// # Errors
/// When it can't be drawn.
pub fn svg(cases: &[Case]) -> anyhow::Result<String> {
    let mut text = String::new();
    let rows = cases.len().max(1);
    {
        let size = (SIZE.0, SIZE.1 * u32::try_from(rows)?);
        let whole = SVGBackend::with_string(&mut text, size).into_drawing_area();
        whole.fill(&WHITE).map_err(failed)?;
        for (case, area) in cases.iter().zip(whole.split_evenly((rows, 1))) {
            draw(case, &area)?;
        }
        whole.present().map_err(failed)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(case: &Case, area: &Area<'_>) -> anyhow::Result<()> {
    let floor = case.floor.as_ref().map(|floor| &floor.measured.curves);
    let operator = &case.operator.curves;
    let curves = [
        ("operator: pods made", Some(&operator.admitted), BLUE, 2),
        ("operator: jobs ended", Some(&operator.completed), BLUE, 1),
        ("bare client: pods made", floor.map(|f| &f.admitted), RED, 2),
        ("bare client: jobs ended", floor.map(|f| &f.completed), RED, 1),
    ];
    let drawn =
        || curves.iter().filter_map(|(name, times, color, width)| Some((*name, (*times)?, *color, *width)));
    let last = drawn().filter_map(|(_, times, ..)| times.last()).copied().fold(1.0, f64::max);
    let most = drawn().map(|(_, times, ..)| times.len()).max().unwrap_or_default().max(1);
    let mut chart = ChartBuilder::on(area)
        .caption(&case.name, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, 0.0..count(most))
        .map_err(failed)?;
    chart.configure_mesh().x_desc("seconds").y_desc("jobs").light_line_style(WHITE).draw().map_err(failed)?;
    for (name, times, color, width) in drawn() {
        let style = faded(color, width).stroke_width(2);
        let series = chart.draw_series(LineSeries::new(points(times), style)).map_err(failed)?;
        series.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let mut legend = chart.configure_series_labels();
    legend
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(failed)
}

/// Ends are drawn paler than admissions.
fn faded(color: RGBColor, width: u32) -> plotters::style::RGBAColor {
    color.mix(if width > 1 { 1.0 } else { 0.5 })
}

/// A cumulative curve of times, thinned out.
fn points(times: &[f64]) -> Vec<(f64, f64)> {
    let step = times.len().div_ceil(POINTS).max(1);
    let all = times.iter().enumerate().map(|(before, at)| (*at, count(before + 1)));
    all.enumerate()
        .filter(|(number, _)| number % step == 0 || number + 1 == times.len())
        .map(|(_, point)| point)
        .collect()
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Curves, Measured};

    #[test]
    fn a_curve_keeps_its_ends() {
        let times: Vec<f64> = (0..1_000).map(f64::from).collect();
        let points = points(&times);
        assert!(points.len() <= POINTS + 1);
        assert_eq!((points.first(), points.last()), (Some(&(0.0, 1.0)), Some(&(999.0, 1_000.0))));
    }

    #[test]
    fn each_case_is_in_the_picture() {
        let curves = Curves { admitted: vec![0.5, 1.0], completed: vec![1.5, 2.0] };
        let case = |name: &str| Case {
            name: name.to_owned(),
            operator: Measured { curves: curves.clone(), ..Measured::default() },
            floor: None,
            others: Vec::new(),
            figures: [].into(),
        };
        let picture = svg(&[case("first case"), case("second case")]).unwrap();
        for wanted in ["first case", "second case", "operator: jobs ended", "</svg>"] {
            assert!(picture.contains(wanted), "{wanted}");
        }
        assert!(!picture.contains("bare client"));
    }
}
