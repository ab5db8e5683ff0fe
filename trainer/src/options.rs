//! How numbers are checked on the command line.

pub fn positive(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err("expected a finite number above 0".into()) }
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(value) => Ok(value),
        Err(_) => Err("expected a whole number".into()),
    }
}

pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number".into())
}
