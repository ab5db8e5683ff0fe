//! burn's GPU backends: one launch for each operation.

use burn::backend::{
    TensorMetadata,
    cubecl::{RuntimeId, dtype_to_storage_type},
    ops::FloatTensorOps,
};
use burn_cubecl::{CubeBackend, cubecl::prelude::SequenceArg, kernel::into_contiguous, tensor::CubeTensor};
use burn_tensor::{DType, Shape};

use super::{
    FusedKernels, FusedOps, Reach, portable,
    program::{Counts, Operands, Program},
};
use crate::ops::{
    cube::{cubes, empty, empty_f32, one_unit_each},
    gpu::{
        Cube, accurate_sums_kernel, argsort_kernel, predictions_kernel, program_kernel, rows_gradient_kernel,
        scaled_derivatives_kernel, targets_kernel,
    },
};

/// The cube that reads a sequence. Every device has as many units, and they reduce in shared memory.
const CUBE: Cube = Cube { units: 64, planes: None };

impl FusedKernels for CubeBackend {
    fn targets(tokens: CubeTensor, mask: CubeTensor, vocab: usize) -> (CubeTensor, CubeTensor, CubeTensor) {
        let (tokens, mask) = (into_contiguous(tokens), into_contiguous(mask));
        let [sequences, time]: [usize; 2] = tokens.shape().dims();
        let ids = empty(&tokens, [sequences * time], DType::I32);
        let counted = empty(&mask, [sequences, time - 1], mask.dtype);
        let token_count = empty(&tokens, [sequences], DType::I32);
        let (client, dtypes) = (tokens.client.clone(), [tokens.dtype, mask.dtype].map(dtype_to_storage_type));
        let (count, dim) = cubes(&client, sequences, CUBE.units);
        targets_kernel::launch(
            &client,
            count,
            dim,
            tokens.into_tensor_arg(),
            mask.into_tensor_arg(),
            ids.clone().into_tensor_arg(),
            counted.clone().into_tensor_arg(),
            token_count.clone().into_tensor_arg(),
            vocab.min(i32::MAX as usize) as i32,
            CUBE,
            dtypes,
        );
        (ids, counted, token_count)
    }

    fn predictions(rows: CubeTensor, targets: CubeTensor, time: usize, column: usize) -> CubeTensor {
        let targets = into_contiguous(targets);
        let predictions = empty_f32(&rows, [rows.shape()[0] / time, time - 1]);
        let client = rows.client.clone();
        let (count, dim) = one_unit_each(&client, predictions.shape().num_elements());
        let (rows, out) = (rows.into_tensor_arg(), predictions.clone().into_tensor_arg());
        predictions_kernel::launch(&client, count, dim, rows, targets.into_tensor_arg(), out, column);
        predictions
    }

    fn evaluate(operands: Operands<Self>, program: Program) -> CubeTensor {
        let outputs = empty_f32(&operands.one, [program.code.outputs.len() * program.pairs]);
        run(program, operands, &[&outputs]);
        outputs
    }

    fn value_and_derivatives(operands: Operands<Self>, program: Program, length: usize) -> (CubeTensor, CubeTensor) {
        let (value, derivatives) = (empty_f32(&operands.one, [program.pairs]), empty_f32(&operands.one, [length]));
        run(program, operands, &[&value, &derivatives]);
        (value, derivatives)
    }

    fn sums(operands: Operands<Self>, program: Program) -> CubeTensor {
        let (outputs, pairs) = (program.code.outputs.len(), program.pairs);
        let values = Self::float_reshape(Self::evaluate(operands, program), Shape::new([outputs, pairs]));
        Self::accurate_sums(values)
    }

    fn argsort(numbers: CubeTensor) -> CubeTensor {
        let numbers = into_contiguous(numbers);
        let order = empty(&numbers, [numbers.shape()[0]], DType::I32);
        let client = numbers.client.clone();
        let (count, dim) = one_unit_each(&client, order.shape().num_elements());
        argsort_kernel::launch(&client, count, dim, numbers.into_tensor_arg(), order.clone().into_tensor_arg());
        order
    }

    fn accurate_sums(values: CubeTensor) -> CubeTensor {
        let values = into_contiguous(values);
        let sums = empty_f32(&values, [values.shape()[0]]);
        let client = values.client.clone();
        let (count, dim) = cubes(&client, values.shape()[0], CUBE.units);
        accurate_sums_kernel::launch(
            &client,
            count,
            dim,
            values.into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            CUBE,
        );
        sums
    }
}

impl FusedOps for CubeBackend {
    fn gradient_of_rows(upstream: CubeTensor, targets: CubeTensor, columns: usize, column: usize) -> CubeTensor {
        if !has_kernels(&upstream) {
            return portable::gradient_of_rows::<Self>(upstream, targets, columns, column);
        }
        let targets = into_contiguous(targets);
        let gradient = empty_f32(&upstream, [targets.shape()[0], columns]);
        let client = upstream.client.clone();
        let (count, dim) = one_unit_each(&client, gradient.shape().num_elements());
        let (upstream, out) = (upstream.into_tensor_arg(), gradient.clone().into_tensor_arg());
        rows_gradient_kernel::launch(&client, count, dim, upstream, targets.into_tensor_arg(), out, column);
        gradient
    }

    fn scaled_derivatives(derivatives: CubeTensor, upstream: CubeTensor, parts: usize, reach: Reach) -> CubeTensor {
        if !has_kernels(&derivatives) || reach == Reach::AllPairs {
            return portable::scaled_derivatives::<Self>(derivatives, upstream, parts, reach);
        }
        let derivatives = into_contiguous(derivatives);
        let length = derivatives.shape()[0];
        let gradient = empty_f32(&derivatives, [length]);
        let client = derivatives.client.clone();
        let (count, dim) = one_unit_each(&client, length);
        let (derivatives, out) = (derivatives.into_tensor_arg(), gradient.clone().into_tensor_arg());
        scaled_derivatives_kernel::launch(&client, count, dim, derivatives, upstream.into_tensor_arg(), out, parts);
        gradient
    }
}

/// Whether the kernels compute numbers of this dtype on this device: f32, and not where burn's cube backend runs on a CPU.
fn has_kernels(tensor: &CubeTensor) -> bool {
    tensor.dtype == DType::F32 && tensor.device.runtime() != RuntimeId::Cpu
}

/// Writes the outputs of a program: to one tensor, or the first output to the first and the others to the second.
fn run(program: Program, operands: Operands<CubeBackend>, outputs: &[&CubeTensor]) {
    let client = operands.one.client.clone();
    let argument = |tensor: CubeTensor| into_contiguous(tensor).into_tensor_arg();
    let (inputs, counts) = operands.floats(&program);
    let inputs = inputs.map(argument).collect();
    let counts = match counts {
        Counts::Unused => SequenceArg::new(),
        Counts::Used(counts) => [argument(counts)].into_iter().collect(),
    };
    let (count, dim) = one_unit_each(&client, program.pairs);
    program_kernel::launch(
        &client,
        count,
        dim,
        inputs,
        counts,
        outputs.iter().map(|out| (*out).clone().into_tensor_arg()).collect(),
        program.constants.iter().map(|constant| *constant as f32).collect(),
        program.pairs,
        f32::INFINITY,
        program.code,
        outputs.len() > 1,
    );
}
