//! `src/ops/cpu`, as it is.
#![allow(dead_code, unused_imports)] // what burn's backends call is called by the tests alone

#[path = "../../src/ops/cpu/mod.rs"]
mod cpu;
