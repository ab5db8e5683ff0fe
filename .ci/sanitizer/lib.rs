//! `src/ops/cpu`, as it is.
#![allow(dead_code, unused_imports)]

#[path = "../../src/ops/cpu/mod.rs"]
mod cpu;
