//! The family of losses, drawn and as numbers: value and gradient against the margin, all of them from the library.
//!
//! ```text
//! cargo run --release -p burn-dpo-tools --bin losses -- --out docs    # writes docs/losses.svg
//! cargo run --release -p burn-dpo-tools --bin losses -- --table       # the whole range of the margin, beside the f64 reference
//! ```

mod curves;
mod exact;
mod measure;
mod picture;
mod table;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use burn_dpo_tools::{device, exit};
use clap::Parser;

/// Draws the family of preference losses, or tabulates it over the whole range of the margin.
#[derive(Parser)]
struct Args {
    /// Directory to write losses.svg to; without it, the table is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Print every member's value and derivative at margins from 0 to ±1e30, beside the f64 reference's, as Markdown
    #[arg(long)]
    table: bool,

    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm
    #[arg(long, default_value = "flex")]
    device: String,
}

fn main() -> ExitCode {
    exit::status(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let device = device::by_name(&args.device).map_err(anyhow::Error::msg)?;
    if let Some(directory) = &args.out {
        let svg = picture::svg(&curves::panels(&device)?)?;
        let path = directory.join("losses.svg");
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, svg))
            .with_context(|| format!("{}: cannot be written", path.display()))?;
        let _ = writeln!(io::stderr(), "{}", path.display());
    }
    if args.table || args.out.is_none() {
        let table = table::markdown(&device)?;
        io::stdout().lock().write_all(table.as_bytes())?;
    }
    Ok(())
}
