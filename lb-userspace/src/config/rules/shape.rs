//! Shapes that rules have and other sections do not.

use super::super::{
    decode::Cursor,
    fault::{Located, Refusal},
    schema::{Section, Shape},
};

/// One value, or a list of them of which one is meant.
pub(in crate::config) struct OneOf<S> {
    pub(in crate::config) item: S,
}

impl<S: Shape> Shape for OneOf<S> {
    /// None in place of values that are at fault; at least one.
    type Output = Vec<Option<S::Output>>;

    fn describe(&self) -> String {
        format!("{}, or list", self.item.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let Some(items) = cursor.items() else { return Some(vec![self.item.decode(cursor)]) };
        if items.is_empty() {
            return cursor.reject(Refusal::new("is an empty list: nothing is meant"));
        }
        Some(items.iter().map(|item| self.item.decode(item)).collect())
    }

    fn section(&self) -> Option<&'static Section> {
        self.item.section()
    }
}

/// The values of [`OneOf`], if all are good.
pub(in crate::config) fn all<T>(values: Vec<Option<T>>) -> Option<Vec<T>> {
    values.into_iter().collect()
}

/// A mapping from names of something to one shape, in the order of the file.
pub(super) struct ByName<N, S> {
    /// Of what: "header names".
    pub(super) of: &'static str,
    pub(super) name: fn(&str) -> Result<N, Refusal>,
    pub(super) item: S,
}

impl<N, S: Shape> Shape for ByName<N, S> {
    /// None in place of a pair that is at fault; at least one pair.
    type Output = Vec<Option<(N, S::Output)>>;

    fn describe(&self) -> String {
        format!("mapping from {}: {}", self.of, self.item.describe())
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let pairs = cursor.pairs()?;
        if pairs.is_empty() {
            return cursor.reject(Refusal::new("is an empty mapping: nothing is meant"));
        }
        let decode = |(name, value): (&str, Cursor<'_>)| {
            let value_read = self.item.decode(&value);
            match (self.name)(name) {
                Ok(name) => Some((name, value_read?)),
                Err(refusal) => value.reject(refusal),
            }
        };
        Some(pairs.into_iter().map(decode).collect())
    }
}

/// A shape with the place of its value.
pub(super) struct Placed<S>(pub(super) S);

impl<S: Shape> Shape for Placed<S> {
    type Output = Located<S::Output>;

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<Self::Output> {
        let value = self.0.decode(cursor)?;
        Some(Located { value, place: cursor.place.clone() })
    }

    fn section(&self) -> Option<&'static Section> {
        self.0.section()
    }
}

/// A percentage with up to two decimals, as hundredths of a percent.
pub(super) struct Percent;

impl Shape for Percent {
    type Output = u16;

    fn describe(&self) -> String {
        "number from 0 to 100 with up to two decimals".into()
    }

    fn decode(&self, cursor: &Cursor<'_>) -> Option<u16> {
        let hint = || Some("such as 10 or 0.5".to_owned());
        let Some(text) = cursor.text(true).filter(|_| cursor.value.is_number()) else {
            return cursor.wrong_type("a percentage", hint());
        };
        match basis_points(&text) {
            Some(value) => Some(value),
            None => {
                let message =
                    format!("{} is not a percentage", super::super::fault::shorten(&text));
                cursor.reject(Refusal { message, hint: Some(format!("a {}", self.describe())) })
            }
        }
    }
}

fn basis_points(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > 2 || !is_number(whole) || !is_number(decimals) {
        return None;
    }
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 100)?;
    let decimals: u16 = format!("{decimals:0<2}").parse().ok()?;
    Some(whole * 100 + decimals).filter(|value| *value <= 10_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_percentage_has_up_to_two_decimals() {
        let check = |text, expected| assert_eq!(super::basis_points(text), expected, "{text}");
        check("10", Some(1000));
        check("0.5", Some(50));
        check("99.99", Some(9999));
        check("100.00", Some(10_000));
        for bad in ["100.01", "101", "0.001", "1e1", "-1", ".5", "", "65636"] {
            check(bad, None);
        }
    }
}
