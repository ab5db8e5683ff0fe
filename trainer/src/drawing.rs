//! What the pictures share.

use plotters::{coord::Shift, prelude::*};

/// Lines and text.
pub const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(0xe6, 0xe6, 0xe6);
const FONT: &str = "Helvetica, Arial, sans-serif";

/// A part of the page.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// How drawing ends.
pub type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

/// An SVG of that size, on white.
///
/// # Errors
/// If plotters cannot lay the picture out: nothing else fails where the drawing goes into a String.
pub fn svg(size: (u32, u32), draw: impl Fn(&Area<'_>) -> Drawn) -> anyhow::Result<String> {
    let mut svg = String::new();
    let page = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = page.fill(&WHITE).and_then(|()| draw(&page)).and_then(|()| page.present());
    drawn.map_err(|error| anyhow::anyhow!("the picture cannot be drawn: {error}"))?;
    drop(page);
    Ok(svg)
}

/// Text of that size, in the ink of everything else.
pub fn text(size: i32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// With as many decimals as the number needs, and a minus sign as wide as a plus.
pub fn short(value: f64) -> String {
    let rounded = (value * 1e4).round() / 1e4 + 0.0; // + 0.0 makes −0 into 0
    format!("{rounded}").replace('-', "−")
}
