//! The run as a picture.

use plotters::prelude::*;

use crate::{
    drawing::{self, Area, Drawn, GRID, INK, short, text},
    log::{Log, Point},
};

const BLUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
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
    drawing::svg((2 * PANEL.0, 2 * PANEL.1), |page| {
        let areas = page.split_evenly((2, 2));
        areas.iter().zip(&panels).try_for_each(|(area, (title, unit, curves))| panel(area, title, unit, curves, log))
    })
}

fn panel(area: &Area<'_>, title: &str, unit: &str, curves: &[Curve], log: &Log) -> Drawn {
    let steps = log.batches.last().map_or(1, |point| point.step);
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
fn legend(area: &Area<'_>, curves: &[Curve]) -> Drawn {
    let mut left = 58;
    for curve in curves {
        let held_out = (format!("{}, held out", curve.label), curve.color.stroke_width(3));
        let batch = ("batch".to_string(), curve.color.mix(PALE).stroke_width(1));
        for (label, style) in [held_out, batch] {
            area.draw(&PathElement::new([(left, 45), (left + 18, 45)], style))?;
            area.draw_text(&label, &text(14), (left + 23, 39))?;
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
