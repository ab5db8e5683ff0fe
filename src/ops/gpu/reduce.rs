//! Reductions over the units of a cube.

use cubecl::prelude::*;

/// How the units of a cube reduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) struct Cube {
    /// How many units there are: a power of two.
    pub units: usize,
    /// The most planes that they can be in; none if the device has no operations within a plane.
    pub planes: Option<usize>,
}

/// How two numbers are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Join {
    Sum,
    Max,
}

/// The sum of a number over all units of the cube. All of them have to call this, and all get the result.
#[cube]
pub(super) fn sum_over_cube(value: f32, #[comptime] cube: Cube) -> f32 {
    over_cube(value, Join::Sum, cube)
}

/// The largest of a number over all units of the cube, none of which is NaN. All of them have to call this, and all get the result.
#[cube]
pub(super) fn max_over_cube(value: f32, #[comptime] cube: Cube) -> f32 {
    over_cube(value, Join::Max, cube)
}

#[cube]
fn over_cube(value: f32, #[comptime] join: Join, #[comptime] cube: Cube) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(comptime!(cube.planes.unwrap_or(cube.units)));
    if comptime!(cube.planes.is_some()) {
        let of_plane = over_plane(value, join);
        if UNIT_POS_PLANE == 0 {
            parts[PLANE_POS as usize] = of_plane;
        }
        sync_cube();
    } else {
        parts[UNIT_POS as usize] = value;
        sync_cube();
        let mut half = (cube.units / 2).runtime();
        while half > 0 {
            if (UNIT_POS as usize) < half {
                parts[UNIT_POS as usize] = joined(parts[UNIT_POS as usize], parts[UNIT_POS as usize + half], join);
            }
            sync_cube();
            half /= 2;
        }
    }
    let mut whole = parts[0];
    if comptime!(cube.planes.is_some()) {
        for plane in 1..(CUBE_DIM as usize).div_ceil(PLANE_DIM as usize) {
            whole = joined(whole, parts[plane], join);
        }
    }
    sync_cube();
    whole
}

#[cube]
fn joined(one: f32, two: f32, #[comptime] join: Join) -> f32 {
    match join {
        Join::Sum => one + two,
        Join::Max => max(one, two),
    }
}

#[cube]
fn over_plane(value: f32, #[comptime] join: Join) -> f32 {
    match join {
        Join::Sum => plane_sum(value),
        Join::Max => plane_max(value),
    }
}
