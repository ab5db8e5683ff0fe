//! The run as a picture.

use anyhow::anyhow;
use plotters::{coord::Shift, prelude::*};

use crate::log::{Log, Point};

const BLUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
const FONT: &str = "Helvetica, Arial, sans-serif";
/// How much of its colour a batch's line keeps.
const PALE: f64 = 0.35;
const PANEL: (u32, u32) = (500, 330);

/// One line of a panel: bold on the held-out pairs, and the same pale on the batch of each step.
struct Curve {
    label: &'static str,
    metric: &'static str,
    color: RGBColor,
}

/// Margin, accuracy, loss and log-probs over the DPO steps, as SVG; `loss` is what the loss is called.
pub fn svg(log: &Log, loss: &str) -> anyhow::Result<String> {
    let mut svg = String::new();
    let page = SVGBackend::with_string(&mut svg, (2 * PANEL.0, 2 * PANEL.1)).into_drawing_area();
    let one = |label, metric, color| Curve { label, metric, color };
    let loss_title = format!("Loss: {loss}");
    let panels = [
        ("Reward margin", "chosen − rejected", vec![one("margin", "rewards/margins", BLUE)]),
        (
            "Reward accuracy (a tie counts as wrong)",
            "share of pairs",
            vec![one("accuracy", "rewards/accuracies", BLUE)],
        ),
        (loss_title.as_str(), "per pair", vec![one("loss", "loss", BLUE)]),
        (
            "Log-probs",
            "nats per completion",
            vec![one("chosen", "logps/chosen", BLUE), one("rejected", "logps/rejected", ORANGE)],
        ),
    ];
    // Drawing into a String fails only if plotters cannot lay the picture out.
    let draw = || {
        page.fill(&WHITE)?;
        for (area, (title, unit, curves)) in page.split_evenly((2, 2)).iter().zip(&panels) {
            panel(area, title, unit, curves, log)?;
        }
        page.present()
    };
    draw().map_err(|error| anyhow!("the curves cannot be drawn: {error}"))?;
    drop(page);
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn panel<'a>(area: &Area<'a>, title: &str, unit: &str, curves: &[Curve], log: &Log) -> Drawn<'a> {
    let steps = log.batches.last().map_or(1, |point| point.step);
    let text = |size: i32| (FONT, size).into_font().color(&INK);
    area.draw_text(title, &text(19), (58, 14))?;
    legend(area, curves)?;

    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_top(58)
        .x_label_area_size(38)
        .y_label_area_size(54)
        .build_cartesian_2d(0..steps, range(curves, log))?;
    chart
        .configure_mesh()
        .x_labels(7)
        .y_labels(6)
        .disable_x_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(text(14))
        .y_label_formatter(&|value| short(*value))
        .x_desc("step")
        .y_desc(unit)
        .draw()?;
    for curve in curves {
        chart.draw_series(LineSeries::new(points(&log.batches, curve), curve.color.mix(PALE).stroke_width(1)))?;
    }
    for curve in curves {
        chart.draw_series(LineSeries::new(points(&log.held_out, curve), curve.color.stroke_width(3)))?;
    }
    Ok(())
}

/// A swatch and a word for each line, in a row below the title.
fn legend<'a>(area: &Area<'a>, curves: &[Curve]) -> Drawn<'a> {
    let text = (FONT, 14).into_font().color(&INK);
    let mut left = 58;
    for curve in curves {
        let held_out = (format!("{}, held out", curve.label), curve.color.stroke_width(3));
        let batch = ("batch".to_string(), curve.color.mix(PALE).stroke_width(1));
        for (label, style) in [held_out, batch] {
            area.draw(&PathElement::new([(left, 45), (left + 18, 45)], style))?;
            area.draw_text(&label, &text, (left + 23, 39))?;
            left += 23 + 6 * label.len() as i32 + 20;
        }
    }
    Ok(())
}

fn points<'a>(points: &'a [Point], curve: &'a Curve) -> impl Iterator<Item = (usize, f64)> + 'a {
    let value = |point: &Point| point.metrics.iter().find(|(name, _)| *name == curve.metric).map(|&(_, value)| value);
    let placed = points.iter().filter_map(move |point| Some((point.step, value(point)?)));
    placed.filter(|(_, value)| value.is_finite())
}

/// All that the lines reach, and a little more; a share is between 0 and 1.
fn range(curves: &[Curve], log: &Log) -> std::ops::Range<f64> {
    if curves.iter().any(|curve| curve.metric == "rewards/accuracies") {
        return -0.02..1.02;
    }
    let all = curves.iter().flat_map(|curve| points(&log.batches, curve).chain(points(&log.held_out, curve)));
    let (low, high) =
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, value)| (low.min(value), high.max(value)));
    let room = if high > low { 0.05 * (high - low) } else { 0.5 };
    if low <= high { low - room..high + room } else { 0.0..1.0 }
}

/// With as many decimals as the number needs, and a minus sign as wide as a plus.
fn short(value: f64) -> String {
    let rounded = (value * 1e4).round() / 1e4 + 0.0; // + 0.0 makes −0 into 0
    format!("{rounded}").replace('-', "−")
}
