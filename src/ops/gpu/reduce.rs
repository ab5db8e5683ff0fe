//! One number of all units of a cube.

use cubecl::prelude::*;

/// How the units of a cube find what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) struct Cube {
    /// How many units there are: a power of two.
    pub units: usize,
    /// The most planes that they can be in; none if units of a plane cannot talk to each other.
    pub planes: Option<usize>,
}

/// The sum of a number over all units of the cube. All of them have to call this, and get it.
#[cube]
pub(super) fn sum_over_cube(value: f32, #[comptime] cube: Cube) -> f32 {
    let mut sum = 0.0f32;
    if comptime!(cube.planes.is_some()) {
        let parts = of_planes(plane_sum(value), comptime!(cube.planes.unwrap_or(1)));
        for plane in 0..planes_in_cube() {
            sum += parts[plane];
        }
        sync_cube();
    } else {
        let mut parts = of_units(value, cube.units);
        let mut half = (cube.units / 2).runtime();
        while half > 0 {
            if (UNIT_POS as usize) < half {
                parts[UNIT_POS as usize] += parts[UNIT_POS as usize + half];
            }
            sync_cube();
            half /= 2;
        }
        sum = parts[0];
        sync_cube();
    }
    sum
}

/// The largest of a number over all units of the cube, none of which is NaN. All of them have to call this, and get it.
#[cube]
pub(super) fn max_over_cube(value: f32, #[comptime] cube: Cube) -> f32 {
    let mut largest = value;
    if comptime!(cube.planes.is_some()) {
        let parts = of_planes(plane_max(value), comptime!(cube.planes.unwrap_or(1)));
        for plane in 0..planes_in_cube() {
            largest = max(largest, parts[plane]);
        }
        sync_cube();
    } else {
        let mut parts = of_units(value, cube.units);
        let mut half = (cube.units / 2).runtime();
        while half > 0 {
            if (UNIT_POS as usize) < half {
                parts[UNIT_POS as usize] = max(parts[UNIT_POS as usize], parts[UNIT_POS as usize + half]);
            }
            sync_cube();
            half /= 2;
        }
        largest = parts[0];
        sync_cube();
    }
    largest
}

#[cube]
fn planes_in_cube() -> usize {
    (CUBE_DIM as usize).div_ceil(PLANE_DIM as usize)
}

/// A number of each plane, where all planes see it.
#[cube]
fn of_planes(value: f32, #[comptime] planes: usize) -> Shared<[f32]> {
    let mut parts = Shared::<[f32]>::new_slice(planes);
    if UNIT_POS_PLANE == 0 {
        parts[PLANE_POS as usize] = value;
    }
    sync_cube();
    parts
}

/// A number of each unit, where all units see it.
#[cube]
fn of_units(value: f32, #[comptime] units: usize) -> Shared<[f32]> {
    let mut parts = Shared::<[f32]>::new_slice(units);
    parts[UNIT_POS as usize] = value;
    sync_cube();
    parts
}
