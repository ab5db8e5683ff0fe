//! The directory that `--out` names.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::Value;

const METRICS: &str = "metrics.jsonl";
pub const SUMMARY: &str = "summary.json";
pub const WEIGHTS: &str = "policy.safetensors";
pub const CURVES: &str = "curves.svg";

/// One run's files.
pub struct OutDir {
    path: PathBuf,
}

/// One JSON object a line.
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl OutDir {
    /// Makes the directory, if need be, and takes away what an earlier run left there: files of two runs side by side
    /// would pass for one. The metrics file is begun at once, so that a directory that cannot be written is known
    /// before any work is done.
    pub fn create(path: &Path) -> anyhow::Result<(Self, MetricsFile)> {
        fs::create_dir_all(path).with_context(|| format!("{}: cannot be made", path.display()))?;
        for name in [SUMMARY, WEIGHTS, CURVES] {
            let old = path.join(name);
            match fs::remove_file(&old) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(cannot_write(&old, error)),
                _ => {}
            }
        }
        let metrics = path.join(METRICS);
        let file = File::create(&metrics).map_err(|error| cannot_write(&metrics, error))?;
        Ok((Self { path: path.into() }, MetricsFile { path: metrics, file }))
    }

    /// Writes a file as a whole or not at all.
    pub fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!("{name}.tmp"));
        let result = fs::write(&unfinished, content).and_then(|()| fs::rename(&unfinished, &path));
        result.map_err(|error| cannot_write(&path, error))
    }
}

impl MetricsFile {
    /// In one write, unbuffered: whenever the run is interrupted, what is there is whole lines.
    pub fn append(&mut self, value: &Value) -> anyhow::Result<()> {
        self.file.write_all(format!("{value}\n").as_bytes()).map_err(|error| cannot_write(&self.path, error))
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("{}: cannot be written", path.display()))
}
