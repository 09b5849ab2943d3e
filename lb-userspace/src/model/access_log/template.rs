//! Lines of the user's own making: text, and fields that are filled in. The syntax is that
//! of texts in rules, [`crate::model::rule::template`].

use std::{
    cell::RefCell,
    fmt::{Display, Write},
};

use super::field::{LineKind, LogField};
use crate::model::rule::template::{Part, TemplateError, parts};

/// A line with fields in it, without a newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTemplate(Vec<Part<LogField>>);

/// What a line is about.
pub trait Values {
    /// Appends the value of a field, escaped; nothing if there is none.
    fn append(&self, field: &LogField, line: &mut String);
}

impl LogTemplate {
    /// Reads a template of lines of a kind.
    ///
    /// # Errors
    /// [`TemplateError`]: it is malformed, too large, or names what such lines do not have.
    pub fn parse(kind: LineKind, text: &str) -> Result<Self, TemplateError> {
        parts(text, |name| LogField::parse(kind, name)).map(Self)
    }

    /// What a text names that such lines do not have, as far as it can be read.
    #[must_use]
    pub fn unknown_fields(kind: LineKind, text: &str) -> Vec<String> {
        let unknown = RefCell::new(Vec::new());
        let read = |name: &str| {
            if LogField::parse(kind, name).is_none() {
                unknown.borrow_mut().push(name.to_owned());
            }
            Some(())
        };
        // What else is wrong with it is told by reading it.
        let _ = parts(text, read);
        unknown.into_inner()
    }

    /// Every text that stands in it, defaults included.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|part| match part {
            Part::Text(text) | Part::Variable { default: text, .. } => &**text,
        })
    }

    /// Every field in it.
    pub fn fields(&self) -> impl Iterator<Item = &LogField> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable { variable, .. } => Some(variable),
        })
    }

    /// Appends the line, its newline included. A field without a value shows its default,
    /// or else a dash, so that columns stay where they are.
    pub fn write(&self, values: &impl Values, line: &mut String) {
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Variable { variable, default } => {
                    let before = line.len();
                    values.append(variable, line);
                    if line.len() == before {
                        line.push_str(if default.is_empty() { "-" } else { default });
                    }
                }
            }
        }
        line.push('\n');
    }
}

/// Appends a value that may be missing.
pub fn show(line: &mut String, value: Option<impl Display>) {
    if let Some(value) = value {
        // Writing to a String does not fail.
        let _ = write!(line, "{value}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Has a frontend and nothing else.
    struct Little;

    impl Values for Little {
        fn append(&self, field: &LogField, line: &mut String) {
            show(line, matches!(field, LogField::Frontend).then_some("web"));
        }
    }

    fn line(text: &str) -> String {
        let mut line = String::new();
        LogTemplate::parse(LineKind::Http, text).unwrap().write(&Little, &mut line);
        line
    }

    #[test]
    fn what_has_no_value_is_a_dash_or_what_the_template_says() {
        assert_eq!(line("[${frontend}] ${backend} ${server|none} $$"), "[web] - none $\n");
    }

    #[test]
    fn a_kind_of_line_knows_its_own_fields_alone() {
        let parse = LogTemplate::parse;
        for (kind, good, bad) in [
            (LineKind::Http, "${response.status}", "${snat.port}"),
            (LineKind::Tcp, "${timer.connect}", "${request.uri}"),
            (LineKind::L4, "${packets.in}", "${timer.queue}"),
        ] {
            parse(kind, good).unwrap();
            assert!(matches!(parse(kind, bad), Err(TemplateError::Unknown(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_says_why(
            given in r"([${}|.a-z]|\PC|\$\{frontend\}|\$\{request\.header\.[A-z-]{1,4}\}){0,40}",
        ) {
            for kind in LineKind::ALL {
                if let Ok(template) = LogTemplate::parse(kind, &given) {
                    let mut line = String::new();
                    template.write(&Little, &mut line);
                    prop_assert!(line.ends_with('\n'));
                    // Every field brings at least as much as it takes to say that it is empty.
                    let least: usize = template.texts().map(str::len).sum();
                    prop_assert!(line.len() <= least + 4 * template.fields().count() + 1);
                }
            }
        }

        #[test]
        fn a_text_without_fields_is_itself(given in "[^$\n]*") {
            prop_assert_eq!(line(&given), given + "\n");
        }
    }
}
