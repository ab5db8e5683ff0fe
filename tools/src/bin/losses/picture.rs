//! The panels as a picture.

use burn_dpo_tools::drawing::{self, Area, Drawn, GRID, INK, short, text};
use plotters::prelude::*;

use crate::{
    curves::{Curve, Panel, REACH},
    measure::Measured,
};

const AXIS: RGBColor = RGBColor(0xa0, 0xa0, 0xa0);
/// Told apart by those who see few colours too; the first is of the loss that the others are compared with.
const COLORS: [RGBColor; 6] = [
    INK,
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
];
const CHART: (u32, u32) = (385, 310);
const LEGEND_WIDTH: u32 = 230;

/// A row for each panel: losses, derivatives, legend.
pub fn svg(panels: &[Panel]) -> anyhow::Result<String> {
    let size = (2 * CHART.0 + LEGEND_WIDTH, CHART.1 * panels.len() as u32);
    drawing::svg(size, |page| {
        page.split_evenly((panels.len(), 1)).iter().zip(panels).try_for_each(|(area, panel)| row(area, panel))
    })
}

fn row(area: &Area<'_>, panel: &Panel) -> Drawn {
    area.draw_text(panel.title, &text(22), (72, 14))?;
    let (values, rest) = area.split_horizontally(CHART.0);
    let (derivatives, legend_area) = rest.split_horizontally(CHART.0);
    chart(&values, panel, "loss per pair", panel.values, |measured| measured.value)?;
    chart(&derivatives, panel, "∂ loss / ∂ log π(chosen)", panel.derivatives, |measured| measured.derivative)?;
    legend(&legend_area, &panel.curves)
}

fn chart(area: &Area<'_>, panel: &Panel, unit: &str, range: (f64, f64), of: fn(&Measured) -> f64) -> Drawn {
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_top(44)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(-REACH..REACH, range.0..range.1)?;
    chart
        .configure_mesh()
        .x_labels(11)
        .y_labels(8)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .label_style(text(16))
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .x_desc(&panel.axis)
        .y_desc(unit)
        .draw()?;
    for origin in [vec![(-REACH, 0.0), (REACH, 0.0)], vec![(0.0, range.0), (0.0, range.1)]] {
        chart.draw_series(LineSeries::new(origin, AXIS.stroke_width(1)))?;
    }
    // What the others are compared with is drawn last, and thin: it covers nothing.
    for (index, curve) in panel.curves.iter().enumerate().rev() {
        let points: Vec<(f64, f64)> = curve.points.iter().map(|(place, measured)| (*place, of(measured))).collect();
        for piece in inside(&points, range) {
            chart.draw_series(LineSeries::new(piece, style(index)))?;
        }
    }
    Ok(())
}

fn legend(area: &Area<'_>, curves: &[Curve]) -> Drawn {
    for (index, curve) in curves.iter().enumerate() {
        let top = 56 + 27 * index as i32;
        area.draw(&PathElement::new([(4, top), (28, top)], style(index)))?;
        area.draw_text(curve.label, &text(16), (34, top - 8))?;
    }
    Ok(())
}

fn style(index: usize) -> ShapeStyle {
    COLORS[index % COLORS.len()].stroke_width(if index == 0 { 1 } else { 2 })
}

/// The pieces of a line that are within the chart, cut where they leave it.
fn inside(points: &[(f64, f64)], (low, high): (f64, f64)) -> Vec<Vec<(f64, f64)>> {
    let within = |y: f64| (low..=high).contains(&y);
    let mut pieces = vec![Vec::new()];
    for pair in points.windows(2) {
        let ((x, y), (next_x, next_y)) = (pair[0], pair[1]);
        let border = if y.min(next_y) < low { low } else { high };
        let crossing = (x + (next_x - x) * (border - y) / (next_y - y), border);
        let mut draw = |point| pieces.last_mut().into_iter().for_each(|piece: &mut Vec<_>| piece.push(point));
        match (within(y), within(next_y)) {
            (true, true) => draw((x, y)),
            (true, false) => {
                draw((x, y));
                draw(crossing);
                pieces.push(Vec::new());
            }
            (false, true) => draw(crossing),
            (false, false) => {}
        }
    }
    if let (Some(&last), Some(piece)) = (points.last(), pieces.last_mut())
        && within(last.1)
    {
        piece.push(last);
    }
    pieces
}
