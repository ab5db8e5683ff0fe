//! burn's GPU backends: one launch for what `step` asks.

use burn::backend::{TensorMetadata, cubecl::dtype_to_storage_type};
use burn_cubecl::{CubeBackend, cubecl::prelude::SequenceArg, kernel::into_contiguous, tensor::CubeTensor};
use burn_tensor::DType;

use super::{
    StepOps,
    formula::{Counts, Operands, Recipe},
};
use crate::ops::{
    cube::{cubes, numbers, one_unit_each, room},
    gpu::{
        Cube, accurate_sums_kernel, ascending_kernel, formula_kernel, parts_gradient_kernel, predictions_kernel,
        rows_gradient_kernel, targets_kernel,
    },
};

/// What goes over a sequence: any device has as many units, and they meet in shared memory.
const CUBE: Cube = Cube { units: 64, planes: None };

impl StepOps for CubeBackend {
    fn targets(tokens: CubeTensor, mask: CubeTensor, vocab: usize) -> (CubeTensor, CubeTensor, CubeTensor) {
        let (tokens, mask) = (into_contiguous(tokens), into_contiguous(mask));
        let [sequences, time]: [usize; 2] = tokens.shape().dims();
        let ids = room(&tokens, [sequences * time], DType::I32);
        let counted = room(&mask, [sequences, time - 1], mask.dtype);
        let token_count = room(&tokens, [sequences], DType::I32);
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
        let predictions = numbers(&rows, [rows.shape()[0] / time, time - 1]);
        let client = rows.client.clone();
        let (count, dim) = one_unit_each(&client, predictions.shape().num_elements());
        let (rows, out) = (rows.into_tensor_arg(), predictions.clone().into_tensor_arg());
        predictions_kernel::launch(&client, count, dim, rows, targets.into_tensor_arg(), out, column);
        predictions
    }

    fn gradient_of_rows(upstream: CubeTensor, targets: CubeTensor, columns: usize, column: usize) -> CubeTensor {
        let targets = into_contiguous(targets);
        let gradient = numbers(&upstream, [targets.shape()[0], columns]);
        let client = upstream.client.clone();
        let (count, dim) = one_unit_each(&client, gradient.shape().num_elements());
        let (upstream, out) = (upstream.into_tensor_arg(), gradient.clone().into_tensor_arg());
        rows_gradient_kernel::launch(&client, count, dim, upstream, targets.into_tensor_arg(), out, column);
        gradient
    }

    fn numbers(operands: Operands<Self>, recipe: Recipe) -> CubeTensor {
        let numbers = numbers(&operands.one, [recipe.program.outputs.len() * recipe.pairs]);
        applied(recipe, operands, &[&numbers]);
        numbers
    }

    fn numbers_and_slopes(operands: Operands<Self>, recipe: Recipe) -> (CubeTensor, CubeTensor) {
        let value = numbers(&operands.one, [recipe.pairs]);
        let slopes = numbers(&operands.one, [(recipe.program.outputs.len() - 1) * recipe.pairs]);
        applied(recipe, operands, &[&value, &slopes]);
        (value, slopes)
    }

    fn ascending(numbers: CubeTensor) -> CubeTensor {
        let numbers = into_contiguous(numbers);
        let order = room(&numbers, [numbers.shape()[0]], DType::I32);
        let client = numbers.client.clone();
        let (count, dim) = one_unit_each(&client, order.shape().num_elements());
        ascending_kernel::launch(&client, count, dim, numbers.into_tensor_arg(), order.clone().into_tensor_arg());
        order
    }

    fn gradient_of_parts(slopes: CubeTensor, upstream: CubeTensor) -> CubeTensor {
        let slopes = into_contiguous(slopes);
        let gradient = numbers(&slopes, [slopes.shape()[0]]);
        let client = slopes.client.clone();
        let (count, dim) = one_unit_each(&client, gradient.shape().num_elements());
        let (slopes, out) = (slopes.into_tensor_arg(), gradient.clone().into_tensor_arg());
        parts_gradient_kernel::launch(&client, count, dim, slopes, upstream.into_tensor_arg(), out);
        gradient
    }

    fn accurate_sums(values: CubeTensor) -> CubeTensor {
        let values = into_contiguous(values);
        let sums = numbers(&values, [values.shape()[0]]);
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

/// Writes what a recipe makes of its operands.
fn applied(recipe: Recipe, operands: Operands<CubeBackend>, outputs: &[&CubeTensor]) {
    let Operands { one, two, three, four, five, counts } = operands;
    let client = one.client.clone();
    let argument = |tensor: CubeTensor| into_contiguous(tensor).into_tensor_arg();
    let inputs = [one, two, three, four, five].into_iter().take(recipe.floats).map(argument).collect();
    let counts = match counts {
        Counts::Unread => SequenceArg::new(),
        Counts::Read(counts) => [argument(counts)].into_iter().collect(),
    };
    let (count, dim) = one_unit_each(&client, recipe.pairs);
    formula_kernel::launch(
        &client,
        count,
        dim,
        inputs,
        counts,
        outputs.iter().map(|out| (*out).clone().into_tensor_arg()).collect(),
        recipe.constants.into_iter().collect(),
        recipe.pairs,
        f32::INFINITY,
        recipe.program,
        outputs.len() > 1,
    );
}
