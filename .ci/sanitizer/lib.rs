//! `src/ops/cpu` and the plain data that it reads, as they are.
#![allow(dead_code, unused_imports)] // what burn's backends call is called by the tests alone

#[path = "../../src/ops/code.rs"]
mod code;
#[path = "../../src/ops/logits.rs"]
mod logits;
#[path = "../../src/ops/cpu/mod.rs"]
mod cpu;
