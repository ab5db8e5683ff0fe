//! The instructions of a fused program. Plain data: nothing here knows burn.

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    Neg,
    Abs,
    Recip,
    Log,
    Exp,
    /// `eˣ − 1`.
    Expm1,
    /// `log(1 + x)` for `−½ ≤ x ≤ 1`.
    Log1p,
    /// `log(1 + eˣ)`.
    Softplus,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x`, clamped to the finite range of the dtype. NaN stays.
    Finite,
    /// `e^(x/2)`, clamped so that its square is the largest power of e that the dtype holds, or just beyond.
    ExpHalf,
    /// 1 where `x` is infinite, else 0.
    IsInf,
}

/// A function of two numbers; a comparison gives 1 or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Greater,
    GreaterEqual,
    Lower,
    LowerEqual,
    Equal,
}

/// One instruction. `x`, `y` and `condition` are indices of earlier instructions.
#[rustfmt::skip] // a line each
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// The pair's entry in part `part` of float input `input`, which holds several parts of `[pairs]` one after the other.
    Input { input: usize, part: usize },
    /// The same of the token counts.
    Count { part: usize },
    /// Entry `index` of float input `input`, the same for each pair.
    Scalar { input: usize, index: usize },
    Constant { index: usize },
    Unary { op: UnaryOp, x: usize },
    Binary { op: BinaryOp, x: usize, y: usize },
    /// `x` where the condition is not 0, else `y`.
    Select { condition: usize, x: usize, y: usize },
}

/// Instructions in the order in which they run, and the indices of those whose results are asked for.
///
/// A GPU compiles one kernel for each value of this type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Code {
    pub instructions: Vec<Instruction>,
    pub outputs: Vec<usize>,
}

impl Code {
    /// The index of an instruction, which is added unless it is there already.
    pub fn push(&mut self, instruction: Instruction) -> usize {
        let known = self.instructions.iter().position(|earlier| *earlier == instruction);
        known.unwrap_or_else(|| {
            self.instructions.push(instruction);
            self.instructions.len() - 1
        })
    }

    /// Which instructions give the same result for all pairs.
    #[cfg(any(feature = "flex", feature = "ndarray"))]
    pub fn uniform(&self) -> Vec<bool> {
        let mut uniform = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            uniform.push(match *instruction {
                Instruction::Input { .. } | Instruction::Count { .. } => false,
                Instruction::Scalar { .. } | Instruction::Constant { .. } => true,
                Instruction::Unary { x, .. } => uniform[x],
                Instruction::Binary { x, y, .. } => uniform[x] && uniform[y],
                Instruction::Select { condition, x, y } => uniform[condition] && uniform[x] && uniform[y],
            });
        }
        uniform
    }
}
