use super::*;

/// `c + x (1/(1 + y))` where `y` is not 0, else `x`, of the second and first half of the input; and the counts.
fn code() -> Code {
    let mut code = Code::default();
    let x = code.push(Instruction::Input { input: 0, part: 1 });
    let y = code.push(Instruction::Input { input: 0, part: 0 });
    let one = code.push(Instruction::Constant { index: 0 });
    let c = code.push(Instruction::Scalar { input: 1, index: 0 });
    let zero = code.push(Instruction::Binary { op: BinaryOp::Sub, x: one, y: one });
    let is_zero = code.push(Instruction::Binary { op: BinaryOp::Equal, x: y, y: zero });
    let sum = code.push(Instruction::Binary { op: BinaryOp::Add, x: y, y: one });
    let recip = code.push(Instruction::Unary { op: UnaryOp::Recip, x: sum });
    let product = code.push(Instruction::Binary { op: BinaryOp::Mul, x, y: recip });
    let shifted = code.push(Instruction::Binary { op: BinaryOp::Add, x: product, y: c });
    let selected = code.push(Instruction::Select { condition: is_zero, x, y: shifted });
    let count = code.push(Instruction::Count { part: 1 });
    code.outputs = vec![selected, count];
    code
}

/// In every split into chunks and tasks, on one thread and several.
#[test]
fn each_pair_is_computed_from_its_own_numbers() {
    let code = code();
    for pairs in [1, 5, 127, 128, 129, TASK, TASK + 1, 3 * TASK + 77] {
        let input: Vec<f64> = (0..2 * pairs).map(|i| (i % 7) as f64).collect();
        let counts: Vec<i32> = (0..2 * pairs as i32).collect();
        let (mut selected, mut counted) = (vec![f64::NAN; pairs], vec![f64::NAN; pairs]);
        let evaluation =
            Evaluation { code: &code, constants: &[1.0], pairs, inputs: vec![&input, &[0.25]], counts: &counts };
        evaluation.write(vec![&mut selected, &mut counted]);
        for pair in 0..pairs {
            let (x, y) = (input[pairs + pair], input[pair]);
            assert_eq!(
                selected[pair],
                if y == 0.0 { x } else { x * (1.0 + y).recip() + 0.25 },
                "pair {pair} of {pairs}"
            );
            assert_eq!(counted[pair], f64::from(counts[pairs + pair]));
        }
        let sums = evaluation.sums();
        assert!((sums[0] - selected.iter().sum::<f64>()).abs() <= 1e-12 * sums[0]);
        assert_eq!(sums[1], counted.iter().sum::<f64>());
    }
}

#[test]
fn no_gradient_comes_from_a_pair_that_is_left_out() {
    let derivatives = [1.0f32, f32::NAN, f32::INFINITY, 4.0, f32::NAN, 6.0];
    for (upstream, expected) in [
        (PairGradient::Each(&[2.0, 0.0, -0.0][..]), [2.0, 0.0, 0.0, 8.0, 0.0, 0.0]),
        (PairGradient::Same(0.0), [0.0; 6]),
    ] {
        let mut scaled = derivatives;
        upstream.scale(&mut scaled, 3);
        assert_eq!(scaled, expected);
    }
}
