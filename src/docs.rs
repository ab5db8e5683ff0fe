//! The pages of `docs/`. Their snippets are compiled and run.

#[doc = include_str!("../docs/choosing-a-loss.md")]
pub mod choosing_a_loss {}

#[doc = include_str!("../docs/migration.md")]
pub mod migration {}

#[doc = include_str!("../docs/bugs-made-impossible.md")]
pub mod bugs_made_impossible {}

#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

#[doc = include_str!("../docs/gpu.md")]
pub mod gpu {}
