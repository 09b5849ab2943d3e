//! Texts with variables: `https://${request.host}${request.uri}`.
//!
//! `${NAME}` stands for a variable's value and `${NAME|TEXT}` for `TEXT` where it has none
//! (without a default, nothing stands there). `$$` is a dollar sign, and so is a `$` before
//! anything else. There is nothing else to it: no expressions, no nesting.

use hyper::http::HeaderName;

/// A text with variables, at least one part unless it is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its parts, in order.
    pub parts: Vec<Part>,
}

/// A part of a template whose variables are `V`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<V = Variable> {
    /// Stands for itself.
    Text(Box<str>),
    /// The value of a variable.
    Variable {
        /// Which one.
        variable: V,
        /// What stands there if it has no value.
        default: Box<str>,
    },
}

/// Something a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `client.address`.
    ClientAddress,
    /// `client.port`.
    ClientPort,
    /// `local.address`: where the client connected to.
    LocalAddress,
    /// `local.port`.
    LocalPort,
    /// `request.id`.
    RequestId,
    /// `request.method`.
    Method,
    /// `request.scheme`: `http` or `https`.
    Scheme,
    /// `request.host`: lower case, without port.
    Host,
    /// `request.path`: dot segments resolved, slashes merged.
    Path,
    /// `request.query`: without the question mark, as it was sent.
    Query,
    /// `request.uri`: path, and the query with its question mark.
    Uri,
    /// `request.version`: `1.0`, `1.1` or `2`.
    Version,
    /// `request.header.NAME`.
    Header(HeaderName),
    /// `request.cookie.NAME`.
    Cookie(Box<str>),
    /// `request.query.NAME`: decoded.
    Parameter(Box<str>),
    /// `tls.sni`.
    Sni,
    /// `tls.version`.
    TlsVersion,
    /// `tls.cipher`.
    TlsCipher,
    /// `tls.alpn`.
    TlsAlpn,
    /// `tls.client.FIELD`.
    Certificate(CertificateField),
    /// `variable.NAME`: set by a rule.
    Set(VariableName),
}

/// A field of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateField {
    /// The whole subject, as RFC 4514 writes it.
    Subject,
    /// The subject's common name.
    CommonName,
    /// The whole issuer.
    Issuer,
    /// The serial number, lower-case hexadecimal.
    Serial,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    Fingerprint,
    /// DNS names of the subject; the first one, where one is shown.
    DnsName,
}

/// Names of certificate fields.
pub const CERTIFICATE_FIELDS: [(&str, CertificateField); 6] = [
    ("subject", CertificateField::Subject),
    ("common_name", CertificateField::CommonName),
    ("issuer", CertificateField::Issuer),
    ("serial", CertificateField::Serial),
    ("fingerprint", CertificateField::Fingerprint),
    ("dns_name", CertificateField::DnsName),
];

/// Names of variables without a parameter.
const PLAIN: [(&str, Variable); 16] = [
    ("client.address", Variable::ClientAddress),
    ("client.port", Variable::ClientPort),
    ("local.address", Variable::LocalAddress),
    ("local.port", Variable::LocalPort),
    ("request.id", Variable::RequestId),
    ("request.method", Variable::Method),
    ("request.scheme", Variable::Scheme),
    ("request.host", Variable::Host),
    ("request.path", Variable::Path),
    ("request.query", Variable::Query),
    ("request.uri", Variable::Uri),
    ("request.version", Variable::Version),
    ("tls.sni", Variable::Sni),
    ("tls.version", Variable::TlsVersion),
    ("tls.cipher", Variable::TlsCipher),
    ("tls.alpn", Variable::TlsAlpn),
];

/// What stands before the parameter of a variable that has one.
const PARAMETERISED: [&str; 5] =
    ["request.header.", "request.cookie.", "request.query.", "tls.client.", "variable."];

/// The name of a variable that rules set: letters, digits and `_`, 1 to 32 of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariableName(Box<str>);

impl VariableName {
    /// Checks and keeps a name; none if it is not one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_name = (1..=32).contains(&text.len()) && text.bytes().all(good);
        is_name.then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is too long.
    #[error("a text with variables has at most {} bytes", Template::MAX_BYTES)]
    Length,
    /// It has too many variables.
    #[error("a text has at most {} variables", Template::MAX_VARIABLES)]
    Variables,
    /// A `${` without a `}`.
    #[error("a '${{' has no '}}'")]
    Unclosed,
    /// No variable has this name.
    #[error("there is no variable {0:?}")]
    Unknown(String),
}

impl Template {
    /// Longest template, in bytes.
    pub const MAX_BYTES: usize = 64 << 10;
    /// Most variables of a template.
    pub const MAX_VARIABLES: usize = 64;

    /// Reads a text with variables.
    ///
    /// # Errors
    /// [`TemplateError`]: it is malformed, or larger than the bounds above.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        parts(text, Variable::parse).map(|parts| Self { parts })
    }

    /// The text, if there are no variables.
    #[must_use]
    pub fn constant(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Every text that stands in it, defaults included.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|part| match part {
            Part::Text(text) | Part::Variable { default: text, .. } => &**text,
        })
    }

    /// Every variable in it.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable { variable, .. } => Some(variable),
        })
    }
}

/// The parts of a text with variables, which `read` knows by name.
///
/// # Errors
/// [`TemplateError`]: it is malformed, or larger than the bounds of [`Template`].
pub fn parts<V>(
    text: &str,
    read: impl Fn(&str) -> Option<V>,
) -> Result<Vec<Part<V>>, TemplateError> {
    if text.len() > Template::MAX_BYTES {
        return Err(TemplateError::Length);
    }
    let (mut parts, mut literal, mut variables) = (Vec::new(), String::new(), 0);
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        literal.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(inner) = after.strip_prefix('{') {
            let (inner, tail) = inner.split_once('}').ok_or(TemplateError::Unclosed)?;
            let (name, default) = inner.split_once('|').unwrap_or((inner, ""));
            let variable = read(name).ok_or_else(|| TemplateError::Unknown(name.to_owned()))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Variable { variable, default: default.into() });
            variables += 1;
            rest = tail;
        } else {
            literal.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Text(literal.into()));
    }
    if variables > Template::MAX_VARIABLES {
        return Err(TemplateError::Variables);
    }
    Ok(parts)
}

impl Variable {
    /// The variable of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some((_, variable)) = PLAIN.iter().find(|(known, _)| *known == name) {
            return Some(variable.clone());
        }
        let start = PARAMETERISED.iter().find(|start| name.starts_with(**start))?;
        let parameter = &name[start.len()..];
        let token = || HeaderName::from_bytes(parameter.as_bytes()).ok();
        match *start {
            "request.header." => token().map(Self::Header),
            "request.cookie." => token().map(|_| Self::Cookie(parameter.into())),
            "request.query." => (!parameter.is_empty()).then(|| Self::Parameter(parameter.into())),
            "tls.client." => {
                let field = CERTIFICATE_FIELDS.iter().find(|(known, _)| *known == parameter);
                field.map(|(_, field)| Self::Certificate(*field))
            }
            _ => VariableName::new(parameter).map(Self::Set),
        }
    }

    /// Every name there is; `NAME` stands for a parameter.
    pub fn names() -> impl Iterator<Item = String> {
        let plain = PLAIN.iter().map(|(name, _)| (*name).to_owned());
        let fields = CERTIFICATE_FIELDS.iter().map(|(field, _)| format!("tls.client.{field}"));
        let named = PARAMETERISED.iter().filter(|start| **start != "tls.client.");
        plain.chain(fields).chain(named.map(|start| format!("{start}NAME")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn variable(variable: Variable, default: &str) -> Part {
        Part::Variable { variable, default: default.into() }
    }

    #[test]
    fn a_template_is_text_and_variables() {
        let check = |given: &str, expected: &[Part]| {
            assert_eq!(Template::parse(given).unwrap().parts, expected, "{given}");
        };
        check("", &[]);
        check("plain", &[text("plain")]);
        check("a $ b $$ c $", &[text("a $ b $ c $")]);
        check("$${x}", &[text("${x}")]);
        check(
            "<${client.address}|${tls.sni|none}>",
            &[
                text("<"),
                variable(Variable::ClientAddress, ""),
                text("|"),
                variable(Variable::Sni, "none"),
                text(">"),
            ],
        );
        let id = VariableName::new("id").unwrap();
        check("${variable.id}", &[variable(Variable::Set(id), "")]);
        check(
            "${request.header.X-Id}",
            &[variable(Variable::Header(HeaderName::from_static("x-id")), "")],
        );
    }

    #[test]
    fn what_is_no_template_says_why() {
        let error = |text: &str| Template::parse(text).unwrap_err();
        assert_eq!(error("${client.address"), TemplateError::Unclosed);
        for name in ["", "client.adress", "request.header.", "request.header.a b", "variable.a-b"] {
            assert_eq!(error(&format!("${{{name}}}")), TemplateError::Unknown(name.into()));
        }
        assert_eq!(error(&"${tls.sni}".repeat(65)), TemplateError::Variables);
        assert_eq!(error(&"a".repeat(70_000)), TemplateError::Length);
    }

    #[test]
    fn every_listed_name_is_read() {
        for name in Variable::names() {
            assert!(Variable::parse(&name).is_some(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_says_why(given in r"([${}|.a-z]|\PC|client\.address){0,40}") {
            if let Ok(template) = Template::parse(&given) {
                prop_assert!(template.texts().map(str::len).sum::<usize>() <= given.len());
            }
        }

        #[test]
        fn a_text_without_dollars_is_itself(given in "[^$]*") {
            let template = Template::parse(&given).unwrap();
            prop_assert_eq!(template.constant(), Some(given.as_str()));
        }
    }
}
