//! burn's ndarray backend: its arrays as slices, for the row kernels in `cpu`. Its products stay its own.

use burn::backend::{
    NdArray, TensorMetadata,
    ndarray::{NdArrayTensor, SharedArray},
};
use burn_tensor::TensorData;

use super::{
    Chain, PreferenceOps, RowKernels, RowSums,
    cpu::{self, Format, Real, RowSum, Upstream, gradient_rows, gradient_rows_into, sums_of},
};

/// Runs a block of code with the array of a float tensor, f32 or f64, and converts what it gives.
macro_rules! with_floats {
    ($tensor:expr, $array:ident => $body:expr) => {
        match $tensor {
            NdArrayTensor::F64(storage) => {
                let $array = storage.into_shared();
                $body.into()
            }
            NdArrayTensor::F32(storage) => {
                let $array = storage.into_shared();
                $body.into()
            }
            other => unreachable!("burn's ndarray backend has no floats of {:?}", other),
        }
    };
}

impl PreferenceOps for NdArray {
    fn row_gradient(
        z: NdArrayTensor,
        targets: NdArrayTensor,
        sums: NdArrayTensor,
        upstream: NdArrayTensor,
        offset: usize,
        chain: Chain,
    ) -> NdArrayTensor {
        let (targets, sums) = (integers(targets), row_sums(sums));
        let upstream = upstreams(upstream);
        let chain = cpu::Chain { scale: chain.scale, cap: chain.cap };
        with_floats!(z, z => {
            let width = z.shape()[1];
            in_place_or_beside(
                z,
                |z| gradient_rows(z, width, &targets, offset, &sums, &upstream, chain),
                |z, gradient| gradient_rows_into(z, gradient, width, &targets, offset, &sums, &upstream, chain),
            )
        })
    }

    fn soft_cap(z: NdArrayTensor, cap: f64) -> NdArrayTensor {
        with_floats!(z, z => in_place(z, |z| cpu::soft_cap(z, cap)))
    }
}

impl RowKernels for NdArray {
    fn row_sums(z: NdArrayTensor, targets: NdArrayTensor, offset: usize, statistics: Option<usize>) -> NdArrayTensor {
        let targets = integers(targets);
        let numbers: Vec<f64> = with_floats!(z, z => {
            let in_order = z.as_standard_layout();
            sums_of(in_order.as_slice().expect("an array in order"), z.shape()[1], &targets, offset, statistics)
        });
        NdArrayTensor::from_data(TensorData::new(numbers, [targets.len(), RowSums::COLUMNS]))
    }

    fn merge(one: NdArrayTensor, two: NdArrayTensor) -> NdArrayTensor {
        let (one, two) = (row_sums(one), row_sums(two));
        let rows = one.len();
        NdArrayTensor::from_data(TensorData::new(cpu::merged(&one, &two), [rows, RowSums::COLUMNS]))
    }

    fn outputs(sums: NdArrayTensor, entropy: bool) -> NdArrayTensor {
        let sums = row_sums(sums);
        let rows = sums.len();
        NdArrayTensor::from_data(TensorData::new(cpu::outputs(&sums, entropy), [rows, if entropy { 2 } else { 1 }]))
    }

    fn exp_rows(z: NdArrayTensor, sums: NdArrayTensor, cap: Option<f64>) -> NdArrayTensor {
        let sums = row_sums(sums);
        let counted = vec![0; sums.len()];
        with_floats!(z, z => {
            let width = z.shape()[1];
            in_place(z, |z| cpu::exp_rows(z, width, &counted, &sums, cap))
        })
    }
}

fn integers(tensor: NdArrayTensor) -> Vec<i32> {
    match tensor {
        NdArrayTensor::I32(storage) => storage.into_shared().iter().copied().collect(),
        other => unreachable!("targets are integers of 32 bits, not {other:?}"),
    }
}

fn floats(tensor: NdArrayTensor) -> Vec<f64> {
    with_floats!(tensor, array => array.iter().map(|x| x.to_f64()).collect::<Vec<f64>>())
}

fn row_sums(sums: NdArrayTensor) -> Vec<RowSum> {
    bytemuck::cast_slice(&floats(sums)).to_vec()
}

/// `[rows, 1]` or `[rows, 2]`.
fn upstreams(upstream: NdArrayTensor) -> Vec<Upstream> {
    let [_, outputs]: [usize; 2] = upstream.shape().dims();
    let of_row = |row: &[f64]| Upstream { log_prob: row[0], entropy: row.get(1).copied().unwrap_or(0.0) };
    floats(upstream).chunks(outputs).map(of_row).collect()
}

/// Overwrites an array: in its own memory if nobody else holds it, else in a copy.
fn in_place<E: Format>(array: SharedArray<E>, overwrite: impl FnOnce(&mut [E])) -> SharedArray<E> {
    let in_order = array.is_standard_layout();
    let mut array = if in_order { array } else { array.as_standard_layout().into_owned().into_shared() };
    overwrite(array.as_slice_mut().expect("an array in order"));
    array
}

/// Overwrites an array in its own memory if nobody else holds it; else writes into zeros beside it.
fn in_place_or_beside<E: Format>(
    array: SharedArray<E>,
    overwrite: impl FnOnce(&mut [E]),
    write: impl FnOnce(&[E], &mut [E]),
) -> SharedArray<E> {
    if array.is_unique() {
        return in_place(array, overwrite);
    }
    let in_order = array.as_standard_layout();
    let mut beside = array.map(|_| E::default()).as_standard_layout().into_owned().into_shared();
    write(in_order.as_slice().expect("an array in order"), beside.as_slice_mut().expect("an array in order"));
    beside
}
