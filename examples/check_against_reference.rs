//! Checking an implementation of one's own against this crate's f64 reference.
//!
//! ```text
//! cargo run --release --example check_against_reference
//! ```
//!
//! The implementation under test is the DPO loss as one would first write it, in f32. The reference says where it stops
//! being right.

use burn_dpo::reference::{Pair, dpo_loss};

/// `−log σ(β Δ)` and its derivative in the chosen log-prob, as first written.
fn mine(policy: [f32; 2], reference: [f32; 2], beta: f32) -> (f32, f32) {
    let z = beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]));
    let sigmoid = 1.0 / (1.0 + (-z).exp());
    (-sigmoid.ln(), -beta * (1.0 - sigmoid))
}

fn relative(mine: f32, reference: f64) -> f64 {
    if reference == 0.0 { f64::from(mine).abs() } else { (f64::from(mine) - reference).abs() / reference.abs() }
}

fn main() {
    let beta = 0.1;
    println!("{:>8} {:>14} {:>14} {:>12} {:>12}", "z", "reference", "mine", "value off", "gradient off");
    for z in [0.0, 1.0, 10.0, 17.0, 30.0, -10.0, -89.0, -1000.0f32] {
        let policy = [z / beta, 0.0];
        let (value, gradient) = mine(policy, [0.0, 0.0], beta);

        let chosen_and_rejected = Pair { chosen: f64::from(policy[0]), rejected: f64::from(policy[1]) };
        let truth = dpo_loss(chosen_and_rejected, Pair { chosen: 0.0, rejected: 0.0 }, f64::from(beta));
        let (value_off, gradient_off) = (relative(value, truth.value), relative(gradient, truth.gradient.chosen));
        println!("{z:>8} {:>14.6e} {value:>14.6e} {value_off:>12.1e} {gradient_off:>12.1e}", truth.value);
    }
}
