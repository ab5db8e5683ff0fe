//! Every law and contract of the crate, on every device.
//!
//! | module          | what it holds                                                                        |
//! |-----------------|--------------------------------------------------------------------------------------|
//! | `laws`          | sentences of mathematics about log-probs, DPO's loss, rewards                         |
//! | `family`        | what holds for every member of the family, from one table of members                  |
//! | `unpaired`      | KTO, BCO, rankings, and what is known of single pairs                                 |
//! | `configuration` | losses as data: names, text, domains of parameters, TRL's options                     |
//! | `contracts`     | what holds for masks, junk, ids, dtypes, gradients and the reference model    |
//! | `statistics`    | entropy and its like, LD-DPO's sums, WPO's weights                                    |
//! | `numerics`      | accuracy over the whole range of the loss, long sequences and large vocabularies      |
//! | `gradients`     | against the f64 reference and against finite differences                              |
//! | `golden`        | against another implementation                                                        |
//! | `metrics`, `metrics_parts`, `metrics_text`, `integrity` | definitions, merging, text form, drift        |
//! | `errors`        | what is refused, and in which words                                                   |
//! | `written_by_hand` | mistakes of other implementations, and what the crate gives instead |
//! | `reference`, `reference_losses`, `metrics_reference` | the f64 reference against itself                 |
//!
//! `devices` is the table of devices, `tolerance` the table of accuracy bounds, `generators` makes inputs of the kinds in
//! `batch`, `pairs` and `measured`, `host` moves numbers. A few cases by default; `BURN_DPO_CASES=1000 cargo test --test suite` goes deeper.

mod batch;
mod configuration;
mod contracts;
mod devices;
mod errors;
#[path = "../../tools/src/bin/losses/exact.rs"]
mod exact;
mod family;
mod family_tolerance;
mod generators;
mod golden;
mod gradients;
mod heads;
mod host;
mod integrity;
mod laws;
mod log_prob_paths;
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
mod written_by_hand;
