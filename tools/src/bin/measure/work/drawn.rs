//! Inputs that are drawn: the same at every run, whatever the number of threads.

use std::f32::consts::TAU;

use rand::{Rng, SeedableRng, rngs::StdRng};
use rayon::prelude::*;

/// Standard normal numbers times `scale`.
pub fn normal(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    const BLOCK: usize = 1 << 16;
    let mut numbers = vec![0.0; count];
    numbers.par_chunks_mut(BLOCK).enumerate().for_each(|(block, numbers)| {
        let mut rng = StdRng::seed_from_u64((seed << 32) + block as u64);
        // Box and Muller's: two at a time
        for two in numbers.chunks_mut(2) {
            let (radius, angle) = ((-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt(), TAU * rng.random::<f32>());
            let (sin, cos) = angle.sin_cos();
            two.iter_mut().zip([sin, cos]).for_each(|(number, part)| *number = scale * radius * part);
        }
    });
    numbers
}

/// Numbers that are `distance` from `numbers`.
pub fn near(mut numbers: Vec<f32>, seed: u64, distance: f32) -> Vec<f32> {
    if distance == 0.0 {
        return numbers;
    }
    let moves = normal(seed, numbers.len(), distance);
    numbers.iter_mut().zip(moves).for_each(|(number, by)| *number += by);
    numbers
}

/// Ids below `vocab`.
pub fn ids(seed: u64, count: usize, vocab: usize) -> Vec<i32> {
    let mut rng = StdRng::seed_from_u64(seed << 32);
    std::iter::repeat_with(|| rng.random_range(0..vocab as i32)).take(count).collect()
}
