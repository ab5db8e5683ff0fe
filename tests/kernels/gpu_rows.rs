//! The kernels beside those of the CPU, in every shape of cube and segment, on a GPU that is there or that software makes.

use burn::backend::ops::IntTensorOps;
use burn_cubecl::CubeDevice;
use burn_tensor::TensorData;

use super::{
    super::{IGNORED, cpu, softmax_state::column},
    *,
};

fn device() -> CubeDevice {
    let device = burn_tensor::Device::wgpu(Default::default());
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => device.clone(),
        other => panic!("{other:?} is no GPU"),
    }
}

fn host(tensor: CubeTensor) -> Vec<f32> {
    let data = burn::backend::read_sync(CubeBackend::float_into_data(tensor)).expect("it can be read");
    data.to_vec().expect("f32")
}

/// Numbers from −8 to 8, in no order; now and then −∞.
fn logits(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..rows * columns)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
            if unit < 0.01 { f32::NEG_INFINITY } else { (unit * 64.0).round() / 4.0 - 8.0 }
        })
        .collect()
}

fn on_gpu(numbers: &[f32], shape: [usize; 2], device: &CubeDevice) -> CubeTensor {
    CubeBackend::float_from_data(TensorData::new(numbers.to_vec(), shape), device)
}

fn targets_on_gpu(targets: &[i32], device: &CubeDevice) -> CubeTensor {
    CubeBackend::int_from_data(TensorData::new(targets.to_vec(), [targets.len()]), device)
}

/// Units with and without planes, one and several cubes to a row, vectors of 1, 2 and 4.
#[test]
fn states_of_rows_are_those_of_the_cpu_in_every_shape_of_cube() {
    let device = device();
    let client = device.client();
    let plane = client.properties().hardware.plane_size_min as usize;
    let planes = |count: usize| Cube { units: count * plane, planes: Some(count) };
    let shapes = [Cube { units: 8, planes: None }, Cube { units: 64, planes: None }, planes(1), planes(2), planes(8)];
    let addresses = [AddressType::U32, AddressType::U64];
    let addresses = addresses.into_iter().filter(|address| client.properties().supports_address(*address));
    let readings: Vec<Reading> = addresses
        .flat_map(|address| shapes.map(|cube| (cube, address)))
        .flat_map(|(cube, address)| [1, 3].map(|segments| Reading { cube, segments, address }))
        .collect();
    for (columns, offset) in [(1, 0), (2, 7), (100, 0), (1001, 3), (4096, 100_000)] {
        let rows = 5;
        let z = logits(rows, columns, columns as u64);
        let targets = [offset as i32, IGNORED, (offset + columns) as i32 - 1, offset as i32 - 1, i32::MAX];
        let vocab = 2 * columns;
        let expected = cpu::states_of(&z, columns, &targets, offset, Some(vocab));
        for reading in &readings {
            let actual = host(softmax_state(
                on_gpu(&z, [rows, columns], &device),
                targets_on_gpu(&targets, &device),
                offset,
                Some(vocab),
                reading,
            ));
            let expected = expected.chunks(SoftmaxState::COLUMNS).zip(actual.chunks(SoftmaxState::COLUMNS));
            for (row, (expected, actual)) in expected.enumerate().filter(|(row, _)| targets[*row] != IGNORED) {
                for (column, (&expected, &actual)) in expected.iter().zip(actual).enumerate() {
                    // sums of positive terms: each passes through 32 additions, 32 more, and those of units and parts
                    let bound = match column {
                        column::SUM_EXP_REST | column::SUM_EXP_GAP | column::SUM_EXP_SQ => {
                            200.0 * f64::from(f32::EPSILON) * expected
                        }
                        column::MEAN_LOGIT => 200.0 * f64::from(f32::EPSILON) * 8.0,
                        _ => 0.0,
                    };
                    let same = expected == f64::from(actual) || expected.is_nan() && actual.is_nan();
                    assert!(
                        same || (expected - f64::from(actual)).abs() <= bound,
                        "{columns} columns, {reading:?}, row {row}, number {column}: {actual}, expected {expected}"
                    );
                }
            }
        }
    }
}

/// A million gaps, as far as there is anything left, beside `exp` in f64.
///
/// In units of rounding, half an `EPSILON`: 1 of the polynomial's last addition, 0.85 of the product before it, 1 of `1 + s`, 1
/// of the product with it, and 0.3 of what both series leave out.
#[test]
fn exp_is_accurate_to_its_last_place() {
    let device = device();
    let sums = cpu::SoftmaxState { max: 0.0, ..cpu::SoftmaxState::EMPTY };
    let of_row: Vec<f32> = bytemuck::cast_slice(&[sums]).iter().map(|sum: &f64| *sum as f32).collect();
    let gaps: Vec<f32> = (0..1 << 20).map(|i| i as f32 * (87.3 / (1 << 20) as f32)).collect();
    let z: Vec<f32> = gaps.iter().map(|d| -d).collect();
    let mut of_row = of_row;
    of_row[column::MAX_COUNT] = 1.0;
    let exps = host(CubeBackend::exp_rows(
        on_gpu(&z, [1, z.len()], &device),
        on_gpu(&of_row, [1, SoftmaxState::COLUMNS], &device),
        None,
    ));
    let worst = gaps.iter().zip(exps).map(|(d, exp)| {
        let exact = f64::from(-d).exp();
        (f64::from(exp) - exact).abs() / exact / f64::from(f32::EPSILON)
    });
    let worst = worst.fold(0.0, f64::max);
    println!("exp: at most {worst:.3} of EPSILON");
    assert!(worst <= 4.15 / 2.0, "{worst} of EPSILON");
}
