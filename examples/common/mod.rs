//! What the examples share: devices by name, data, a small model, and how it learns.
#![allow(dead_code)] // each example uses its part

pub mod clip;
pub mod data;
pub mod descent;
pub mod device;
pub mod drawing;
pub mod exit;
pub mod imitation;
pub mod model;
pub mod options;
pub mod output;
pub mod start;
pub mod tokens;
