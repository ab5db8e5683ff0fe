//! Inputs for the laws. Ours, because ready-made float strategies give no ±∞, NaN, ties or huge offsets on purpose.

use burn_dpo::reference::Pair;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{batch::Batch, pairs::Sums};

/// What may stand where nothing is looked at.
#[derive(Debug, Clone)]
pub struct Junk {
    pub numbers: Vec<f32>,
    pub ids: Vec<i64>,
    pub first_in_mask: bool,
}

/// Anything at all, NaN first.
pub fn junk() -> impl Strategy<Value = Junk> {
    let number = select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, -0.0, 7.0]);
    (vec(number, 1..7), vec(id_out_of_range(9), 1..5), any::<bool>()).prop_map(|(numbers, ids, first_in_mask)| Junk {
        numbers,
        ids,
        first_in_mask,
    })
}

/// An id that a vocabulary of that size does not have.
pub fn id_out_of_range(vocab: usize) -> impl Strategy<Value = i64> {
    let vocab = vocab as i64;
    select(vec![-1, -100, i64::from(i32::MIN), vocab, vocab + 1, i64::from(i32::MAX)])
}

/// Logits as models give them, and harder ones, all finite or −∞, with a log-prob above −∞ for every id.
pub fn batches() -> impl Strategy<Value = Batch> {
    batches_of(sizes(0..=5), tame_rows)
}

/// [`batches`] with an even number of sequences.
pub fn paired_batches() -> impl Strategy<Value = Batch> {
    batches_of((0..=2usize, times(), vocabs()).prop_map(|(pairs, time, vocab)| [2 * pairs, time, vocab]), tame_rows)
}

/// At least one pair of sequences, of logits between −8 and 8: what finite differences can follow.
pub fn moderate_pairs() -> impl Strategy<Value = Batch> {
    let sizes = (1..=2usize, 2..=6usize, 2..=6usize).prop_map(|(pairs, time, vocab)| [2 * pairs, time, vocab]);
    batches_of(sizes, |vocab| vec(-8.0f32..8.0, vocab))
}

/// [`batches`] with at least one sequence of at least two tokens, and a vocabulary of at least two.
pub fn batches_that_predict() -> impl Strategy<Value = Batch> {
    batches_of((1..=4usize, 2..=6usize, 2..=9usize).prop_map(|(s, t, v)| [s, t, v]), tame_rows)
}

/// [`batches`] with whole positions of −∞, and with NaN, ±∞ and extreme numbers anywhere.
pub fn wild_batches() -> impl Strategy<Value = Batch> {
    batches_of(sizes(0..=5), wild_rows)
}

fn sizes(sequences: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = [usize; 3]> {
    (sequences, times(), vocabs()).prop_map(|(sequences, time, vocab)| [sequences, time, vocab])
}

/// One token (nothing predicted) and two (one prediction) come often.
fn times() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(1usize), 1 => Just(2usize), 4 => 3..=6usize]
}

fn vocabs() -> impl Strategy<Value = usize> {
    1..=9usize
}

fn batches_of<R: Strategy<Value = Vec<f32>>>(
    sizes: impl Strategy<Value = [usize; 3]>,
    rows: impl Fn(usize) -> R + Clone,
) -> impl Strategy<Value = Batch> {
    sizes.prop_flat_map(move |[sequences, time, vocab]| {
        let cells = sequences * time;
        (
            vec(rows(vocab), cells),
            vec(0..vocab as i64, cells),
            vec(masks(time), sequences),
            vec(select(vec![1.0f32, 1.0, -1.0, 0.5, 0.1, -2.0, 0.0]), sequences * (time - 1)),
        )
            .prop_map(move |(logits, tokens, mask, upstream)| Batch {
                sequences,
                time,
                vocab,
                logits: logits.concat(),
                tokens,
                mask: mask.concat(),
                upstream,
            })
    })
}

/// Nothing, everything, a completion between prompt and padding, or any tokens at all.
fn masks(time: usize) -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![
        1 => Just(vec![false; time]),
        1 => Just(vec![true; time]),
        3 => (0..=time, 0..=time).prop_map(move |(a, b)| (0..time).map(|t| (a.min(b)..a.max(b)).contains(&t)).collect()),
        2 => vec(any::<bool>(), time),
    ]
}

/// One position's logits.
fn tame_rows(vocab: usize) -> BoxedStrategy<Vec<f32>> {
    let ties = select(vec![-3.0f32, 0.0, 0.25]);
    let offset = select(vec![1e4f32, -1e4, 1e30, -1e30]);
    let subnormal = select(vec![1e-45f32, -1e-45, 1e-40, 0.0, -0.0]);
    prop_oneof![
        4 => vec(-8.0f32..8.0, vocab),
        1 => vec(-300.0f32..300.0, vocab),
        1 => vec(ties, vocab),
        1 => (vec(-8.0f32..8.0, vocab), offset).prop_map(|(row, offset)| row.iter().map(|z| z + offset).collect()),
        1 => vec(subnormal, vocab),
    ]
    .boxed()
}

fn wild_rows(vocab: usize) -> BoxedStrategy<Vec<f32>> {
    let with = |special: Vec<f32>| vec(prop_oneof![3 => -8.0f32..8.0, 1 => select(special)], vocab);
    prop_oneof![
        3 => tame_rows(vocab),
        2 => with(vec![f32::NEG_INFINITY]),
        1 => with(vec![f32::INFINITY, f32::NEG_INFINITY]),
        1 => with(vec![f32::NAN]),
        1 => with(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        1 => with(vec![f32::MAX, f32::MIN, 1e38, -1e38]),
        1 => Just(vec![f32::NEG_INFINITY; vocab]),
    ]
    .boxed()
}

/// Log-prob sums from −10³⁰ to the smallest subnormal number, and 0. None, one or several pairs.
pub fn sums() -> impl Strategy<Value = Vec<Sums>> {
    let nats = prop_oneof![
        4 => -400.0f32..0.0,
        1 => -1.0f32..0.0,
        1 => select(vec![-1e30f32, -1e10, -1e4, -1e-6, -1e-30, -1e-40, -1e-45, 0.0]),
    ];
    pairs_of(nats.prop_map(f64::from))
}

/// Sums whose differences are exact in f32, and whose margins neither underflow nor overflow: whole eighths to −10. Ties
/// are common.
pub fn exact_sums() -> impl Strategy<Value = Vec<Sums>> {
    let eighths = prop_oneof![-80..=0i32, select(vec![-9, -8])];
    pairs_of(eighths.prop_map(|eighths| f64::from(eighths) / 8.0))
}

/// Anything that f32 holds: finite up to its ends, ±∞, NaN.
pub fn wild_sums() -> impl Strategy<Value = Vec<Sums>> {
    let special = select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN, f32::MAX, -1e30, 0.0]);
    pairs_of(prop_oneof![3 => -400.0f32..0.0, 1 => special].prop_map(f64::from))
}

/// As log-probs are, never above 0, and finite: down to the end of f32.
pub fn extreme_sums() -> impl Strategy<Value = Vec<Sums>> {
    let special = select(vec![f32::MIN, f32::MIN / 2.0, -1e38, -1e30, -1e-45, 0.0]);
    pairs_of(prop_oneof![1 => -400.0f32..0.0, 3 => special].prop_map(f64::from))
}

fn pairs_of(nats: impl Strategy<Value = f64> + Clone) -> impl Strategy<Value = Vec<Sums>> {
    let pair = (nats.clone(), nats).prop_map(|(chosen, rejected)| Pair { chosen, rejected });
    let sums = (pair.clone(), pair).prop_map(|(policy, reference)| Sums { policy, reference });
    prop_oneof![1 => Just(0usize), 1 => Just(1usize), 4 => 2..=6usize].prop_flat_map(move |n| vec(sums.clone(), n))
}

/// β as it is used, and at the ends of what is allowed.
pub fn betas() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.01..1.0f64, 1 => select(vec![0.1, 1.0, 8.0, 1e-20, 1e20])]
}
