//! Functions of the numbers of pairs, as losses write them down.
//!
//! On most devices each operation is computed at once, by burn. On GPUs, where each would be a launch, it is only noted down, and
//! what a loss asks for is computed in one: its values and slopes, by a kernel made of these notes.

use std::{
    array,
    collections::HashMap,
    ops::{Add, Div, Mul, Sub},
    sync::Arc,
};

use burn_tensor::{Bool, DType, FloatDType, Int, Tensor, s};

use crate::{
    numerics,
    ops::{Formula, Function, Operation, Step, closed_form, saves_launches, with_slopes},
};

/// A number for each pair, `[pairs]`, without a graph.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // a tensor is large, and is what they are on most devices
pub(crate) enum Numbers {
    /// By burn's operations.
    Computed(Tensor<1>),
    /// To be computed together with others.
    Noted(Arc<Note>),
}

/// Whether something holds, for each pair.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // as above
pub(crate) enum Flags {
    /// By burn's operations.
    Computed(Tensor<1, Bool>),
    /// 1 where it does, else 0.
    Noted(Arc<Note>),
}

/// What is to be computed.
#[derive(Debug)]
pub(crate) enum Note {
    /// Part of a tensor that holds several numbers for each pair, one part after the other.
    Input {
        tensor: Arc<Tensor<1>>,
        part: usize,
        pairs: usize,
    },
    /// The same of integers.
    Count {
        tensor: Arc<Tensor<1, Int>>,
        part: usize,
    },
    /// A tensor with the same number for all pairs, `[1]`.
    Single(Arc<Tensor<1>>),
    Constant(f64),
    Of(Function, Arc<Note>),
    OfTwo(Operation, Arc<Note>, Arc<Note>),
    /// The second where the flag is 1, else the third.
    Choice(Arc<Note>, Arc<Note>, Arc<Note>),
}

impl Numbers {
    /// Those of a tensor, taken out of its graph.
    pub fn of(tensor: &Tensor<1>) -> Self {
        let [numbers] = Self::parts_of(tensor);
        numbers
    }

    /// Those of a tensor that holds several for each pair, one part after the other, taken out of its graph.
    pub fn parts_of<const N: usize>(tensor: &Tensor<1>) -> [Self; N] {
        let tensor = tensor.clone().without_autodiff();
        let pairs = tensor.dims()[0] / N;
        if pairs > 0 && saves_launches(&tensor.device(), tensor.dtype()) {
            let tensor = Arc::new(tensor);
            return array::from_fn(|part| Self::noted(Note::Input { tensor: tensor.clone(), part, pairs }));
        }
        parts(&tensor).map(Self::Computed)
    }

    /// Integers as numbers of the same kind as `like`, in parts as above.
    pub fn counts_of<const N: usize>(counts: &Tensor<1, Int>, like: &Self) -> [Self; N] {
        let counts = counts.clone().without_autodiff();
        match like {
            Self::Computed(like) => {
                let counts = counts.cast(FloatDType::from(like.dtype()));
                parts(&counts).map(Self::Computed)
            }
            Self::Noted(_) => {
                let tensor = Arc::new(counts);
                array::from_fn(|part| Self::noted(Note::Count { tensor: tensor.clone(), part }))
            }
        }
    }

    /// The number of a tensor of `[1]` for each pair, of the same kind as `like`.
    pub fn everywhere(tensor: Tensor<1>, like: &Self) -> Self {
        match like {
            Self::Computed(_) => Self::Computed(tensor),
            Self::Noted(_) => Self::noted(Note::Single(Arc::new(tensor))),
        }
    }

    /// The numbers themselves.
    pub fn compute(self) -> Tensor<1> {
        match self {
            Self::Computed(tensor) => tensor,
            Self::Noted(note) => Plan::formula(&[note]).compute(),
        }
    }

    /// The format that they are computed in.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Computed(tensor) => tensor.dtype(),
            Self::Noted(_) => DType::F32,
        }
    }

    fn are_wide(&self) -> bool {
        self.dtype() == DType::F64
    }

    fn noted(note: Note) -> Self {
        Self::Noted(Arc::new(note))
    }

    fn note(self) -> Arc<Note> {
        match self {
            Self::Computed(tensor) => input(tensor),
            Self::Noted(note) => note,
        }
    }

    fn map(self, function: Function, computed: impl FnOnce(Tensor<1>) -> Tensor<1>) -> Self {
        match self {
            Self::Computed(tensor) => Self::Computed(computed(tensor)),
            Self::Noted(note) => Self::Noted(Arc::new(Note::Of(function, note))),
        }
    }

    fn combine(self, other: Self, how: Operation, computed: impl FnOnce(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Self {
        match (self, other) {
            (Self::Computed(one), Self::Computed(two)) => Self::Computed(computed(one, two)),
            (one, two) => Self::Noted(Arc::new(Note::OfTwo(how, one.note(), two.note()))),
        }
    }

    fn combine_with(self, number: f64, how: Operation, computed: impl FnOnce(Tensor<1>, f64) -> Tensor<1>) -> Self {
        match self {
            Self::Computed(tensor) => Self::Computed(computed(tensor, number)),
            Self::Noted(note) => Self::Noted(with_constant(how, note, number)),
        }
    }

    fn compare(self, number: f64, how: Operation, computed: impl FnOnce(Tensor<1>, f64) -> Tensor<1, Bool>) -> Flags {
        match self {
            Self::Computed(tensor) => Flags::Computed(computed(tensor, number)),
            Self::Noted(note) => Flags::Noted(with_constant(how, note, number)),
        }
    }

    pub fn neg(self) -> Self {
        self.map(Function::Neg, Tensor::neg)
    }

    pub fn abs(self) -> Self {
        self.map(Function::Abs, Tensor::abs)
    }

    pub fn recip(self) -> Self {
        self.map(Function::Recip, Tensor::recip)
    }

    pub fn log(self) -> Self {
        self.map(Function::Log, Tensor::log)
    }

    pub fn greater_elem(self, number: f64) -> Flags {
        self.compare(number, Operation::Greater, |x, y| x.greater_elem(y))
    }

    pub fn lower_elem(self, number: f64) -> Flags {
        self.compare(number, Operation::Lower, |x, y| x.lower_elem(y))
    }

    pub fn greater_equal_elem(self, number: f64) -> Flags {
        self.compare(number, Operation::GreaterEqual, |x, y| x.greater_equal_elem(y))
    }

    pub fn lower_equal_elem(self, number: f64) -> Flags {
        self.compare(number, Operation::LowerEqual, |x, y| x.lower_equal_elem(y))
    }

    pub fn equal_elem(self, number: f64) -> Flags {
        self.compare(number, Operation::Equal, |x, y| x.equal_elem(y))
    }

    #[allow(clippy::wrong_self_convention)] // named as a tensor's method, and like it taking what it is asked of
    pub fn is_inf(self) -> Flags {
        match self {
            Self::Computed(tensor) => Flags::Computed(tensor.is_inf()),
            noted => noted.abs().greater_elem(f64::from(f32::MAX)),
        }
    }

    pub fn mask_fill(self, flags: Flags, number: f64) -> Self {
        match (self, flags) {
            (Self::Computed(tensor), Flags::Computed(flags)) => Self::Computed(tensor.mask_fill(flags, number)),
            (numbers, flags) => numbers.mask_where(flags, Self::noted(Note::Constant(number))),
        }
    }

    pub fn mask_where(self, flags: Flags, other: Self) -> Self {
        match (self, flags, other) {
            (Self::Computed(tensor), Flags::Computed(flags), Self::Computed(other)) => {
                Self::Computed(tensor.mask_where(flags, other))
            }
            (numbers, flags, other) => Self::Noted(Arc::new(Note::Choice(flags.note(), other.note(), numbers.note()))),
        }
    }
}

impl Flags {
    /// Those of a tensor; in the kind that numbers of `like` are.
    pub fn of(tensor: Tensor<1, Bool>, like: &Numbers) -> Self {
        match like {
            Numbers::Computed(_) => Self::Computed(tensor),
            Numbers::Noted(_) => Self::Noted(Self::Computed(tensor).note()),
        }
    }

    pub fn bool_not(self) -> Self {
        match self {
            Self::Computed(tensor) => Self::Computed(tensor.bool_not()),
            Self::Noted(note) => Self::Noted(with_constant(Operation::Equal, note, 0.0)),
        }
    }

    pub fn bool_or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Computed(one), Self::Computed(two)) => Self::Computed(one.bool_or(two)),
            (one, two) => {
                let (one, two) = (one.note(), two.note());
                Self::Noted(Arc::new(Note::Choice(one.clone(), one, two)))
            }
        }
    }

    fn note(self) -> Arc<Note> {
        match self {
            Self::Computed(tensor) => input(tensor.float().cast(FloatDType::F32)),
            Self::Noted(note) => note,
        }
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, $operation:expr) => {
        impl $trait for Numbers {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                self.combine(other, $operation, |one, two| $trait::$method(one, two))
            }
        }

        impl $trait<f64> for Numbers {
            type Output = Self;

            fn $method(self, number: f64) -> Self {
                self.combine_with(number, $operation, |tensor, number| $trait::$method(tensor, number))
            }
        }
    };
}

operator!(Add, add, Operation::Add);
operator!(Sub, sub, Operation::Sub);
operator!(Mul, mul, Operation::Mul);
operator!(Div, div, Operation::Div);

/// A tensor in parts of equal length.
fn parts<const N: usize>(tensor: &Tensor<1>) -> [Tensor<1>; N] {
    let length = tensor.dims()[0] / N;
    array::from_fn(|part| match N {
        1 => tensor.clone(),
        _ => tensor.clone().slice(s![part * length..(part + 1) * length]),
    })
}

fn with_constant(how: Operation, note: Arc<Note>, number: f64) -> Arc<Note> {
    Arc::new(Note::OfTwo(how, note, Arc::new(Note::Constant(number))))
}

/// A number for each pair from a tensor that holds nothing else.
fn input(tensor: Tensor<1>) -> Arc<Note> {
    let [pairs] = tensor.dims();
    Arc::new(Note::Input { tensor: Arc::new(tensor), part: 0, pairs })
}

/// `log(1 + eˣ)`: see [`numerics::softplus`].
pub(crate) fn softplus(x: Numbers) -> Numbers {
    x.map(Function::Softplus, numerics::softplus)
}

/// `1 / (1 + e^−x)`: see [`numerics::sigmoid`].
pub(crate) fn sigmoid(x: Numbers) -> Numbers {
    x.map(Function::Sigmoid, numerics::sigmoid)
}

/// `eˣ`: see [`numerics::exp`].
pub(crate) fn exp(x: Numbers) -> Numbers {
    x.map(Function::Exp, numerics::exp)
}

/// `eˣ − 1`: see [`numerics::expm1`].
pub(crate) fn expm1(x: Numbers) -> Numbers {
    x.map(Function::Expm1, numerics::expm1)
}

/// `log(1 + e)` for `−½ ≤ e ≤ 1`: see [`numerics::log1p_of_at_most_one`].
pub(crate) fn log1p_of_at_most_one(e: Numbers) -> Numbers {
    e.map(Function::Log1p, numerics::log1p_of_at_most_one)
}

/// `log(1 − eˣ)` for `x < 0`: the log-probability of everything else.
pub(crate) fn log1mexp(x: Numbers) -> Numbers {
    let likely = x.clone().greater_elem(-std::f64::consts::LN_2);
    let of_likely = expm1(x.clone()).neg().log();
    let unlikely = log1p_of_at_most_one(exp(x).neg().mask_fill(likely.clone(), 0.0));
    unlikely.mask_where(likely, of_likely)
}

/// `x`, with what lies beyond the format's largest finite number brought back to it. NaN stays.
pub(crate) fn finite(x: Numbers) -> Numbers {
    let largest = if x.are_wide() { f64::MAX } else { f64::from(f32::MAX) };
    let (above, below) = (x.clone().greater_elem(largest), x.clone().lower_elem(-largest));
    x.mask_fill(above, largest).mask_fill(below, -largest)
}

/// `e^(x/2)`, held below the format's largest number, so that twice this factor is `eˣ`, beyond any range only if the
/// whole product is: `0 · eˣ` is 0 and not `0 · ∞`.
pub(crate) fn exp_of_half(x: Numbers) -> Numbers {
    let most = if x.are_wide() { 700.0 } else { 87.0 };
    let half = x / 2.0;
    let beyond = half.clone().greater_elem(most);
    exp(half.mask_fill(beyond, most))
}

/// The function of `input` with those values, `[pairs]`, whose derivatives in the parts of `input` are the slopes.
pub(crate) fn function_of<const N: usize>(input: Tensor<1>, value: Numbers, slopes: [Numbers; N]) -> Tensor<1> {
    if !input.is_tracked() {
        return value.compute();
    }
    if let (Numbers::Computed(value), [Numbers::Computed(slope)]) = (&value, &slopes[..]) {
        return closed_form(value.clone(), [(input, slope.clone())]);
    }
    let outputs: Vec<Arc<Note>> = [value].into_iter().chain(slopes).map(Numbers::note).collect();
    let (value, slopes) = Plan::formula(&outputs).compute_with_slopes();
    with_slopes(value, input, slopes)
}

/// Columns of numbers, one after the other, `[columns · pairs]`.
pub(crate) fn columns(columns: Vec<Numbers>) -> Tensor<1> {
    if columns.iter().all(|column| matches!(column, Numbers::Computed(_))) {
        return Tensor::cat(columns.into_iter().map(Numbers::compute).collect(), 0);
    }
    Plan::formula(&columns.into_iter().map(Numbers::note).collect::<Vec<_>>()).compute()
}

/// Notes in the order in which they are computed, each of them once.
struct Plan {
    formula: Formula,
    /// Where the result of a note is.
    places: HashMap<*const Note, usize>,
}

impl Plan {
    fn formula(outputs: &[Arc<Note>]) -> Formula {
        let mut plan = Self { formula: Formula::default(), places: HashMap::new() };
        plan.formula.program.outputs = outputs.iter().map(|note| plan.place(note)).collect();
        plan.formula
    }

    /// Which step gives what is noted.
    fn place(&mut self, note: &Arc<Note>) -> usize {
        if let Some(place) = self.places.get(&Arc::as_ptr(note)) {
            return *place;
        }
        let step = match &**note {
            Note::Input { tensor, part, pairs } => {
                self.formula.pairs = *pairs;
                Step::Input { slot: self.formula.slot(tensor), part: *part }
            }
            Note::Single(tensor) => Step::Single { slot: self.formula.slot(tensor) },
            Note::Count { tensor, part } => self.formula.count(tensor, *part),
            Note::Constant(number) => Step::Constant { index: self.formula.constant(*number) },
            Note::Of(function, x) => Step::Of { function: *function, x: self.place(x) },
            Note::OfTwo(operation, x, y) => Step::OfTwo { operation: *operation, x: self.place(x), y: self.place(y) },
            Note::Choice(flag, x, y) => Step::Choice { flag: self.place(flag), x: self.place(x), y: self.place(y) },
        };
        let place = self.formula.program.push(step);
        self.places.insert(Arc::as_ptr(note), place);
        place
    }
}
