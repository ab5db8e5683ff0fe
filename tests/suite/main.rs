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
//! | `metrics`   | definitions, merging, text form                                                   |
//! | `errors`    | what is refused, and in which words                                               |
//! | `reference` | the f64 reference against itself                                                  |
//! | `reference_losses` | its losses: as printed and stable, laws, the ends of the number range     |
//!
//! `devices` is the table of devices, `tolerance` the table of accuracy bounds, `generators` makes inputs of the kinds in
//! `batch` and `pairs`, `host` moves numbers. A few cases by default; `BURN_DPO_CASES=1000 cargo test --test suite` goes deeper.

mod batch;
mod contracts;
mod devices;
mod errors;
mod family;
mod family_tolerance;
mod generators;
mod golden;
mod gradients;
mod host;
mod laws;
mod metrics;
mod numerics;
mod pairs;
mod reference;
mod reference_losses;
mod statistics;
mod tolerance;
