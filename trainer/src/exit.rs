//! How every program ends.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use super::output::is_broken_pipe;

/// 0, or one line on stderr and 2.
pub fn status(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let line = format!("error: {error:#}").replace('\n', " ");
            let _ = writeln!(io::stderr(), "{line}");
            ExitCode::from(2)
        }
    }
}
