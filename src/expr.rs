//! Expressions over the numbers of each pair, as losses write them down.
//!
//! Nothing is computed while an expression is built. [`function_of`], [`Expr::evaluate`] and [`columns`] lower it to a program, which
//! `ops` runs in one pass: its value and its derivatives together.

use std::{
    array,
    ops::{Add, Div, Mul, Sub},
    sync::Arc,
};

use burn_tensor::{Bool, FloatDType, Int, Tensor};

use crate::ops::{BinaryOp, Call, Instruction, Reach, UnaryOp};

/// A number of each pair, `[pairs]`, as a constant.
#[derive(Debug, Clone)]
pub(crate) struct Expr(Arc<Node>);

/// Whether something holds, for each pair.
#[derive(Debug, Clone)]
pub(crate) struct BoolExpr(Arc<Node>);

/// An expression's operation and its operands. All tensors of an expression have one float dtype.
#[rustfmt::skip] // a line each
#[derive(Debug)]
enum Node {
    /// Part `part` of a tensor that holds several parts of `[pairs]`, one after the other.
    Input { tensor: Arc<Tensor<1>>, part: usize, pairs: usize },
    /// The same of token counts.
    Count { tensor: Arc<Tensor<1, Int>>, part: usize, pairs: usize },
    /// An entry of a tensor, the same for each pair.
    Scalar { tensor: Arc<Tensor<1>>, index: usize, pairs: usize },
    Constant(f64),
    Unary(UnaryOp, Arc<Node>),
    Binary(BinaryOp, Arc<Node>, Arc<Node>),
    /// The second where the first holds, else the third.
    Select(Arc<Node>, Arc<Node>, Arc<Node>),
}

impl Expr {
    /// The numbers of a tensor, `[pairs]`, without its graph.
    pub fn of(tensor: &Tensor<1>) -> Self {
        let [numbers] = Self::parts_of(tensor);
        numbers
    }

    /// The numbers of a tensor that holds several parts, `[N · pairs]`, without its graph.
    pub fn parts_of<const N: usize>(tensor: &Tensor<1>) -> [Self; N] {
        let (tensor, pairs) = (Arc::new(tensor.clone().without_autodiff()), tensor.dims()[0] / N);
        array::from_fn(|part| Self::new(Node::Input { tensor: tensor.clone(), part, pairs }))
    }

    /// Token counts as numbers, in parts as above. An expression reads those of one model only.
    pub fn counts_of<const N: usize>(counts: &Tensor<1, Int>) -> [Self; N] {
        let (tensor, pairs) = (Arc::new(counts.clone().without_autodiff()), counts.dims()[0] / N);
        array::from_fn(|part| Self::new(Node::Count { tensor: tensor.clone(), part, pairs }))
    }

    /// The numbers of a tensor, `[N]`, each of them the same for that many pairs.
    pub fn scalars<const N: usize>(tensor: Tensor<1>, pairs: usize) -> [Self; N] {
        let tensor = Arc::new(tensor.without_autodiff());
        array::from_fn(|index| Self::new(Node::Scalar { tensor: tensor.clone(), index, pairs }))
    }

    /// The numbers, `[pairs]`.
    pub fn evaluate(self) -> Tensor<1> {
        columns([self])
    }

    fn new(node: Node) -> Self {
        Self(Arc::new(node))
    }

    fn unary(self, op: UnaryOp) -> Self {
        Self::new(Node::Unary(op, self.0))
    }

    fn binary(self, op: BinaryOp, other: Self) -> Self {
        Self::new(Node::Binary(op, self.0, other.0))
    }

    fn constant(number: f64) -> Self {
        Self::new(Node::Constant(number))
    }

    fn compare(self, op: BinaryOp, number: f64) -> BoolExpr {
        BoolExpr(self.binary(op, Self::constant(number)).0)
    }

    pub fn neg(self) -> Self {
        self.unary(UnaryOp::Neg)
    }

    pub fn abs(self) -> Self {
        self.unary(UnaryOp::Abs)
    }

    pub fn recip(self) -> Self {
        self.unary(UnaryOp::Recip)
    }

    pub fn log(self) -> Self {
        self.unary(UnaryOp::Log)
    }

    pub fn greater_elem(self, number: f64) -> BoolExpr {
        self.compare(BinaryOp::Greater, number)
    }

    pub fn greater_equal_elem(self, number: f64) -> BoolExpr {
        self.compare(BinaryOp::GreaterEqual, number)
    }

    pub fn lower_elem(self, number: f64) -> BoolExpr {
        self.compare(BinaryOp::Lower, number)
    }

    pub fn lower_equal_elem(self, number: f64) -> BoolExpr {
        self.compare(BinaryOp::LowerEqual, number)
    }

    pub fn equal_elem(self, number: f64) -> BoolExpr {
        self.compare(BinaryOp::Equal, number)
    }

    #[allow(clippy::wrong_self_convention)] // named like a tensor's method, which takes its tensor too
    pub fn is_inf(self) -> BoolExpr {
        BoolExpr(self.unary(UnaryOp::IsInf).0)
    }

    pub fn mask_fill(self, mask: BoolExpr, number: f64) -> Self {
        self.mask_where(mask, Self::constant(number))
    }

    pub fn mask_where(self, mask: BoolExpr, other: Self) -> Self {
        Self::new(Node::Select(mask.0, other.0, self.0))
    }
}

impl BoolExpr {
    /// The flags of a tensor, `[pairs]`, beside numbers of a dtype.
    pub fn of(tensor: Tensor<1, Bool>, dtype: FloatDType) -> Self {
        Expr::of(&tensor.without_autodiff().float().cast(dtype)).greater_elem(0.5)
    }

    pub fn bool_not(self) -> Self {
        Expr(self.0).equal_elem(0.0)
    }

    pub fn bool_or(self, other: Self) -> Self {
        Self(Arc::new(Node::Select(self.0.clone(), self.0, other.0)))
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident) => {
        impl $trait for Expr {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                self.binary(BinaryOp::$trait, other)
            }
        }

        impl $trait<f64> for Expr {
            type Output = Self;

            fn $method(self, number: f64) -> Self {
                self.binary(BinaryOp::$trait, Self::constant(number))
            }
        }
    };
}

operator!(Add, add);
operator!(Sub, sub);
operator!(Mul, mul);
operator!(Div, div);

/// `log(1 + eˣ) = −log σ(−x)`, accurate over the whole range.
pub(crate) fn softplus(x: Expr) -> Expr {
    x.unary(UnaryOp::Softplus)
}

/// `1 / (1 + e⁻ˣ)`, accurate over the whole range.
pub(crate) fn sigmoid(x: Expr) -> Expr {
    x.unary(UnaryOp::Sigmoid)
}

/// `eˣ`.
pub(crate) fn exp(x: Expr) -> Expr {
    x.unary(UnaryOp::Exp)
}

/// `eˣ − 1`, with its full relative accuracy near 0.
pub(crate) fn expm1(x: Expr) -> Expr {
    x.unary(UnaryOp::Expm1)
}

/// `log(1 + e)` for `−½ ≤ e ≤ 1`, with its full relative accuracy near 0.
pub(crate) fn log1p_of_at_most_one(e: Expr) -> Expr {
    e.unary(UnaryOp::Log1p)
}

/// `log(1 − eˣ)` for `x < 0`: the log-probability of everything else.
pub(crate) fn log1mexp(x: Expr) -> Expr {
    let likely = x.clone().greater_elem(-std::f64::consts::LN_2);
    let of_likely = expm1(x.clone()).neg().log();
    let unlikely = log1p_of_at_most_one(exp(x).neg().mask_fill(likely.clone(), 0.0));
    unlikely.mask_where(likely, of_likely)
}

/// `x`, clamped to the finite range of its dtype. NaN stays.
pub(crate) fn finite(x: Expr) -> Expr {
    x.unary(UnaryOp::Finite)
}

/// `e^(x/2)`, clamped below the dtype's largest number. Multiplying by it twice multiplies by `eˣ`, and is beyond the range only if
/// the whole product is: `0 · eˣ` is 0 and not `0 · ∞`.
pub(crate) fn exp_half(x: Expr) -> Expr {
    x.unary(UnaryOp::ExpHalf)
}

/// The function of `input`, `[parts · pairs]`, with that value, `[pairs]`, and those derivatives in the first parts of the input. In
/// the other parts its derivative is 0.
pub(crate) fn function_of<const N: usize>(
    input: Tensor<1>,
    value: Expr,
    derivatives: [Expr; N],
    reach: Reach,
) -> Tensor<1> {
    if !input.is_tracked() {
        return value.evaluate();
    }
    Lowering::call([value].into_iter().chain(derivatives)).evaluate_in_graph(input, reach)
}

/// Columns of numbers, one after the other, `[columns · pairs]`.
pub(crate) fn columns(columns: impl IntoIterator<Item = Expr>) -> Tensor<1> {
    Lowering::call(columns).evaluate()
}

/// The sum of each expression over all pairs, `[expressions]`.
pub(crate) fn sums(terms: impl IntoIterator<Item = Expr>) -> Tensor<1> {
    Lowering::call(terms).sums()
}

/// Expressions on their way to a program: each node becomes one instruction, after its operands.
#[derive(Default)]
struct Lowering {
    call: Call,
    /// The instructions of nodes that were lowered already.
    lowered: Vec<(*const Node, usize)>,
}

impl Lowering {
    fn call(outputs: impl IntoIterator<Item = Expr>) -> Call {
        let outputs: Vec<Expr> = outputs.into_iter().collect(); // their nodes live, so that no two have one address
        let mut lowering = Self::default();
        lowering.call.program.code.outputs = outputs.iter().map(|output| lowering.instruction(&output.0)).collect();
        lowering.call
    }

    /// The index of a node's instruction.
    fn instruction(&mut self, node: &Arc<Node>) -> usize {
        if let Some((_, index)) = self.lowered.iter().find(|(known, _)| *known == Arc::as_ptr(node)) {
            return *index;
        }
        let instruction = match &**node {
            Node::Input { tensor, part, pairs } => {
                Instruction::Input { input: self.call.input(tensor, *pairs), part: *part }
            }
            Node::Count { tensor, part, pairs } => self.call.count(tensor, *part, *pairs),
            Node::Scalar { tensor, index, pairs } => {
                Instruction::Scalar { input: self.call.input(tensor, *pairs), index: *index }
            }
            Node::Constant(number) => Instruction::Constant { index: self.call.constant(*number) },
            Node::Unary(op, x) => Instruction::Unary { op: *op, x: self.instruction(x) },
            Node::Binary(op, x, y) => Instruction::Binary { op: *op, x: self.instruction(x), y: self.instruction(y) },
            Node::Select(condition, x, y) => Instruction::Select {
                condition: self.instruction(condition),
                x: self.instruction(x),
                y: self.instruction(y),
            },
        };
        let index = self.call.program.code.push(instruction);
        self.lowered.push((Arc::as_ptr(node), index));
        index
    }
}
