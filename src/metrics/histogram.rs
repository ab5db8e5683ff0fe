//! How margins are spread, in buckets that merge exactly.

use std::{collections::BTreeMap, ops::AddAssign};

use serde::{Deserialize, Serialize};

/// How many margins fell into which bucket: the same buckets for every run, so that histograms add up exactly.
///
/// A bucket holds the numbers that agree in sign, binary exponent and the first 3 bits of the mantissa: eight to an
/// octave, each an eighth of its octave's lower end wide. 0, +∞, −∞ and NaN have buckets of their own. Only buckets that
/// hold something are stored; it serialises as a list of `[key, count]`, keys in the order of the margins.
///
/// # Example
/// ```
/// use approx::assert_relative_eq;
/// use burn_dpo::MarginHistogram;
///
/// let margins = [-0.3, 0.0, 0.1, 0.2, 1.7];
/// let histogram: MarginHistogram = margins.into_iter().collect();
/// assert_eq!(histogram.count(), 5);
/// assert_relative_eq!(histogram.quantile(0.5), 0.1, max_relative = 1.0 / 16.0);
///
/// let [lowest, zero, ..] = histogram.buckets().collect::<Vec<_>>()[..] else { unreachable!() };
/// assert_eq!((lowest.lower, lowest.upper, lowest.count), (-0.3125, -0.28125, 1));
/// assert_eq!((zero.lower, zero.upper, zero.count), (0.0, 0.0, 1));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(i32, u64)>", into = "Vec<(i32, u64)>")]
pub struct MarginHistogram(BTreeMap<i32, u64>);

/// One bucket of a [`MarginHistogram`]: `count` margins from `lower` to `upper`.
///
/// The end that is nearer to 0 belongs to it, the other one does not. The bucket of 0 and those of the infinities hold
/// one number, `lower = upper`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MarginBucket {
    /// The lower end.
    pub lower: f64,
    /// The upper end.
    pub upper: f64,
    /// How many margins it holds.
    pub count: u64,
}

/// What is left of an f64's bits when 3 bits of the mantissa are kept.
const DROPPED: u32 = f64::MANTISSA_DIGITS - 1 - 3;

/// The key of +∞, the largest of an ordered number.
const INFINITY: i32 = (f64::INFINITY.to_bits() >> DROPPED) as i32 + 1;

const NAN: i32 = i32::MAX;

/// Ordered as the margins are; 0 for 0, and the keys of `x` and `−x` differ in sign.
fn key(margin: f64) -> i32 {
    if margin.is_nan() {
        NAN
    } else if margin == 0.0 {
        0
    } else {
        let magnitude = (margin.abs().to_bits() >> DROPPED) as i32 + 1;
        if margin > 0.0 { magnitude } else { -magnitude }
    }
}

/// The margin that stands for a bucket: its middle, of which no number in it is farther than 1/16 of itself.
fn middle(key: i32) -> f64 {
    let half = 1 << (DROPPED - 1);
    match key.unsigned_abs() as u64 {
        0 => 0.0,
        k if k == INFINITY as u64 => f64::INFINITY.copysign(key.into()),
        k => f64::from_bits(((k - 1) << DROPPED) + half).copysign(key.into()),
    }
}

/// The ends of a bucket, lower first.
fn ends(key: i32) -> [f64; 2] {
    let edge = |k: u64| f64::from_bits(k << DROPPED);
    let [near, far] = match key.unsigned_abs() as u64 {
        0 => [0.0; 2],
        k if k == INFINITY as u64 => [f64::INFINITY; 2],
        k => [edge(k - 1), edge(k)],
    };
    if key < 0 { [-far, -near] } else { [near, far] }
}

impl MarginHistogram {
    pub(super) fn add(&mut self, margin: f64) {
        *self.0.entry(key(margin)).or_default() += 1;
    }

    /// How many margins it holds, but for NaN.
    pub fn count(&self) -> u64 {
        self.numbers().map(|(_, count)| count).sum()
    }

    /// How many NaN it holds. They have no place in an order: buckets and quantiles are without them.
    pub fn nan_count(&self) -> u64 {
        self.0.get(&NAN).copied().unwrap_or(0)
    }

    /// The margin below or at which a share `q` of all margins lies: of `n` in order, the first number `k` for which
    /// `k/n ≥ q`.
    ///
    /// It is known by its bucket, and answered with the middle of it: within 1/16 of the margin itself, relative, for
    /// every margin that is a normal f64; exactly for 0 and the infinities. NaN if there are no margins, or if `q` is not
    /// in `[0, 1]`.
    pub fn quantile(&self, q: f64) -> f64 {
        let count = self.count();
        if count == 0 || !(0.0..=1.0).contains(&q) {
            return f64::NAN;
        }
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);
        let rounded_up = rank > 1 && (rank - 1) as f64 / count as f64 >= q; // 0.55 · 100 is 55.000000000000007
        let rank = if rounded_up { rank - 1 } else { rank };
        let mut below = 0;
        let found = self.numbers().find(|(_, count)| {
            below += count;
            below >= rank
        });
        found.map_or(f64::NAN, |(key, _)| middle(key))
    }

    /// Its buckets, in the order of the margins: what to draw.
    pub fn buckets(&self) -> impl Iterator<Item = MarginBucket> + '_ {
        self.numbers().map(|(key, count)| {
            let [lower, upper] = ends(key);
            MarginBucket { lower, upper, count }
        })
    }

    fn numbers(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.0.range(..=INFINITY).map(|(&key, &count)| (key, count))
    }
}

impl AddAssign<&Self> for MarginHistogram {
    fn add_assign(&mut self, other: &Self) {
        for (&key, count) in &other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }
}

impl FromIterator<f64> for MarginHistogram {
    fn from_iter<I: IntoIterator<Item = f64>>(margins: I) -> Self {
        let mut histogram = Self::default();
        margins.into_iter().for_each(|margin| histogram.add(margin));
        histogram
    }
}

impl From<MarginHistogram> for Vec<(i32, u64)> {
    fn from(histogram: MarginHistogram) -> Self {
        histogram.0.into_iter().collect()
    }
}

impl TryFrom<Vec<(i32, u64)>> for MarginHistogram {
    type Error = String;

    fn try_from(buckets: Vec<(i32, u64)>) -> Result<Self, String> {
        for (i, &(key, count)) in buckets.iter().enumerate() {
            if !(-INFINITY..=INFINITY).contains(&key) && key != NAN {
                return Err(format!("{key} is the key of no bucket"));
            }
            if count == 0 {
                return Err(format!("bucket {key} is empty"));
            }
            if i > 0 && buckets[i - 1].0 >= key {
                return Err(format!("bucket {key} comes after bucket {}", buckets[i - 1].0));
            }
        }
        Ok(Self(buckets.into_iter().collect()))
    }
}
