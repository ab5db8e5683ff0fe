//! Every law and contract of the crate, on every device.
//!
//! | module      | what it holds                                                                    |
//! |-------------|----------------------------------------------------------------------------------|
//! | `laws`      | sentences of mathematics about log-probs, the loss, rewards                       |
//! | `contracts` | what holds for masks, junk, ids, number formats, gradients and the reference model |
//! | `statistics` | entropy and its kin, LD-DPO's sums, WPO's weights                              |
//! | `numerics`  | accuracy over the whole range of the loss, long sequences and large vocabularies  |
//! | `gradients` | against the f64 reference and against finite differences                         |
//! | `golden`    | against another implementation                                                    |
//! | `metrics`   | definitions and merging; `metrics_parts` histogram, means, first bad value; `metrics_text` text form; `metrics_reference` the definitions themselves |
//! | `integrity` | how far policy and reference are apart                                            |
//! | `errors`    | what is refused, and in which words                                               |
//! | `reference` | the f64 reference against itself                                                  |
//! | `reference_losses` | its losses: as printed and stable, laws, the ends of the number range     |
//!
//! `devices` is the table of devices, `tolerance` the table of accuracy bounds, `generators` makes inputs of the kinds in
//! `batch`, `pairs` and `measured`, `host` moves numbers. A few cases by default; `BURN_DPO_CASES=1000 cargo test --test suite` goes deeper.

mod batch;
mod configuration;
mod contracts;
mod devices;
mod errors;
mod family;
mod family_tolerance;
mod generators;
mod golden;
mod gradients;
mod host;
mod integrity;
mod laws;
mod measured;
mod metrics;
mod metrics_parts;
mod metrics_reference;
mod metrics_text;
mod numerics;
mod pairs;
mod reference;
mod reference_losses;
mod statistics;
mod tolerance;
mod unpaired;
