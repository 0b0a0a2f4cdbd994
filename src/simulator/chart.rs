//! The picture: how long tenants waited, the pools' shares against what would be fair, and how much was used, as SVG.

use plotters::{
    chart::{ChartBuilder, ChartContext, SeriesLabelPosition},
    coord::{
        CoordTranslate, Shift,
        cartesian::Cartesian2d,
        combinators::{BindKeyPoints, IntoLogRange},
        types::RangedCoordf64,
    },
    drawing::{DrawingArea, IntoDrawingArea},
    element::PathElement,
    prelude::SVGBackend,
    series::{DashedLineSeries, LineSeries},
    style::{BLACK, Color, RGBColor, ShapeStyle, WHITE},
};

use super::report::{IntervalReport, Report, ShareReport, TenantReport};

/// Of one panel, in pixels.
const SIZE: (u32, u32) = (1100, 360);
/// Pools that are drawn.
const POOLS: usize = 4;
/// Points of a curve; more can't be distinguished.
const POINTS: usize = 240;
/// Colours that people who see few of them can distinguish.
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 10),
];
/// Waiting of less than a second is none.
const LEAST: f64 = 1.0;

/// It could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing the picture: {0}")]
pub struct PictureError(String);

/// What is read from an interval.
type Value = fn(&IntervalReport) -> f64;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture of a report.
///
/// # Errors
/// When it can't be drawn.
pub fn svg(report: &Report) -> Result<String, PictureError> {
    let mut text = String::new();
    let pools: Vec<(usize, &str)> = report
        .pools
        .iter()
        .enumerate()
        .filter_map(|(number, pool)| Some((number, pool.pool.as_deref()?)))
        .take(POOLS)
        .collect();
    {
        let rows = 2 + pools.len();
        let size = (SIZE.0, SIZE.1.saturating_mul(u32::try_from(rows).unwrap_or(1)));
        let whole = SVGBackend::with_string(&mut text, size).into_drawing_area();
        whole.fill(&WHITE).map_err(failed)?;
        let panels = whole.split_evenly((rows, 1));
        let mut panels = panels.iter();
        if let Some(area) = panels.next() {
            waiting(report, area)?;
        }
        for ((number, pool), area) in pools.into_iter().zip(&mut panels) {
            shares(report, number, pool, area)?;
        }
        if let Some(area) = panels.next() {
            utilisation(report, area)?;
        }
        whole.present().map_err(failed)?;
    }
    Ok(text)
}

/// A curve for each plan: its tenants in the order of how long their jobs waited.
fn waiting(report: &Report, area: &Area<'_>) -> Result<(), PictureError> {
    let waits = |plan: &str| {
        let of_plan = report.tenants.iter().filter(|tenant| tenant.plan == plan && tenant.jobs.all > 0);
        let mut waits: Vec<f64> = of_plan.map(|tenant: &TenantReport| tenant.jobs.wait_seconds.p95).collect();
        waits.sort_by(f64::total_cmp);
        waits
    };
    let longest = report.tenants.iter().map(|tenant| tenant.jobs.wait_seconds.p95).fold(60.0, f64::max);
    let ticks = [1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];
    let ticks = ticks.into_iter().filter(|tick| *tick <= longest * 1.2).collect();
    let range = (LEAST..longest * 1.2).log_scale().with_key_points(ticks);
    let mut chart = ChartBuilder::on(area)
        .caption("Waiting by tenant: 95 % of a tenant's jobs waited at most this long", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..100.0, range)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("tenants of the plan, those that waited least first (%)")
        .y_label_formatter(&|seconds| tick(*seconds))
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for (plan, color) in report.plans.iter().zip(COLORS.iter().cycle()) {
        let waits = waits(&plan.plan);
        let step = 100.0 / waits.len().max(1) as f64;
        // A step for each tenant, so that a single one is a line, too.
        let points: Vec<(f64, f64)> = waits
            .iter()
            .enumerate()
            .flat_map(|(n, wait)| {
                [(n as f64 * step, wait.max(LEAST)), ((n + 1) as f64 * step, wait.max(LEAST))]
            })
            .collect();
        let style = color.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(points, style)).map_err(failed)?;
        series.label(format!("{} ({} tenants)", plan.plan, plan.tenants)).legend(key(style));
    }
    legend(&mut chart, SeriesLabelPosition::LowerRight)
}

fn shares(report: &Report, pool: usize, name: &str, area: &Area<'_>) -> Result<(), PictureError> {
    let of = |interval: &IntervalReport, plan: usize, value: fn(&ShareReport) -> f64| {
        interval.shares.get(pool).and_then(|shares| shares.get(plan)).map_or(0.0, value)
    };
    let used = |plan| thinned(report, |interval| of(interval, plan, |share| share.used));
    let entitled = |plan| thinned(report, |interval| of(interval, plan, |share| share.entitled));
    let most = (0..report.plans.len()).flat_map(|plan| used(plan).into_iter().chain(entitled(plan)));
    let most = most.map(|(_, share)| share).fold(1.0, f64::max) * 1.05;
    let caption =
        format!("Pool {name}: share used (line) against what would be fair by weight (dashes), by plan");
    let mut chart = panel(report, area, &caption, most, "% of the pool")?;
    for (plan, color) in (0..report.plans.len()).zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(used(plan), style)).map_err(failed)?;
        let label = format!("{} (weight {})", report.plans[plan].plan, report.plans[plan].weight);
        series.label(label).legend(key(style));
        chart.draw_series(DashedLineSeries::new(entitled(plan), 3, 4, style)).map_err(failed)?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

fn utilisation(report: &Report, area: &Area<'_>) -> Result<(), PictureError> {
    let curves: [(&str, Value); 3] = [
        ("CPU", |interval| interval.utilisation.cpu),
        ("memory", |interval| interval.utilisation.memory),
        ("GPUs", |interval| interval.utilisation.gpus),
    ];
    let mut chart = panel(report, area, "Utilisation of all workers", 105.0, "% of what there is")?;
    for ((name, value), color) in curves.into_iter().zip(COLORS) {
        let points = thinned(report, value);
        if points.iter().all(|(_, used)| *used <= 0.0) {
            continue;
        }
        let style = color.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(points, style)).map_err(failed)?;
        series.label(name).legend(key(style));
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A panel over time.
fn panel<'a, 'b>(
    report: &Report,
    area: &'a Area<'b>,
    caption: &str,
    most: f64,
    unit: &str,
) -> Result<Chart<'a, 'b>, PictureError> {
    // Room on the right for the legend.
    let days = report.days.max(1e-6) * 1.16;
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..days, 0.0..most)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("days")
        .y_desc(unit)
        .x_labels(12)
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

/// A curve over time in percent, with the mean of neighbours where there are too many points.
fn thinned(report: &Report, value: impl Fn(&IntervalReport) -> f64) -> Vec<(f64, f64)> {
    let together = report.intervals.len().div_ceil(POINTS).max(1);
    let mut from = 0.0;
    let mut points = Vec::new();
    for some in report.intervals.chunks(together) {
        let end = some.last().map_or(from, |interval| interval.end_day);
        let mean = some.iter().map(&value).sum::<f64>() / some.len() as f64;
        points.push(((from + end) / 2.0, mean * 100.0));
        from = end;
    }
    points
}

/// A line of the legend.
fn key(style: ShapeStyle) -> impl Fn((i32, i32)) -> PathElement<(i32, i32)> {
    move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style)
}

fn legend<'a, 'b, C: CoordTranslate>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, C>,
    position: SeriesLabelPosition,
) -> Result<(), PictureError>
where
    'b: 'a,
{
    let mut labels = chart.configure_series_labels();
    labels
        .position(position)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.4))
        .draw()
        .map_err(failed)
}

fn tick(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 86_400.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

fn failed(error: impl std::fmt::Display) -> PictureError {
    PictureError(error.to_string())
}
