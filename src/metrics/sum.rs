//! Running sums that survive every text format, and pairs of them.

use std::ops::AddAssign;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::sides::Sides;

/// An f64 sum. JSON has no NaN and no infinity; losing them would hide what they report, so there they are written as
/// the strings `"NaN"`, `"inf"` and `"-inf"`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum(pub f64);

impl AddAssign<f64> for Sum {
    fn add_assign(&mut self, term: f64) {
        self.0 += term;
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl<U, T: AddAssign<U>> AddAssign<Sides<U>> for Sides<T> {
    fn add_assign(&mut self, other: Sides<U>) {
        self.chosen += other.chosen;
        self.rejected += other.rejected;
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(f64),
    Name(String),
}

impl Serialize for Sum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() && !self.0.is_finite() {
            serializer.collect_str(&self.0)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return f64::deserialize(deserializer).map(Self);
        }
        match NumberOrName::deserialize(deserializer)? {
            NumberOrName::Number(number) => Ok(Self(number)),
            NumberOrName::Name(name) => name.parse().map(Self).map_err(|_| {
                de::Error::invalid_value(de::Unexpected::Str(&name), &"a number, \"NaN\", \"inf\" or \"-inf\"")
            }),
        }
    }
}
