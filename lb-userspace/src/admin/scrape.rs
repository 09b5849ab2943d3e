//! `GET /metrics`: which format a scraper wants, and pages on their way to it.
//!
//! A page may be large and a scraper slow or dead: there are few pages at a time, each is sent
//! piece by piece, and none for longer than a deadline.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    HeaderMap, Response,
    body::{Body, Bytes, Frame, SizeHint},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue, VARY},
};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

/// Bytes given to the connection at a time.
const PIECE: usize = 64 * 1024;

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    /// Prometheus's text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl PageFormat {
    /// What these headers prefer (RFC 9110, section 12.5.1); text if they do not care.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (mut text, mut open_metrics) = (0, 0);
        for range in values.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let mut weight = 1000;
            for part in parts {
                if let Some((name, value)) = part.split_once('=')
                    && name.trim().eq_ignore_ascii_case("q")
                {
                    weight = thousandths(value.trim());
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" => open_metrics = weight.max(open_metrics),
                "text/plain" | "text/*" | "*/*" => text = weight.max(text),
                _ => {}
            }
        }
        if open_metrics > text { Self::OpenMetrics } else { Self::Text }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A weight from 0 to 1 in thousandths; 0 for what is none.
fn thousandths(text: &str) -> u16 {
    let weight = text.parse::<f32>().unwrap_or_default().clamp(0.0, 1.0) * 1000.0;
    // NaN becomes 0.
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 1000")]
    #[expect(clippy::cast_sign_loss, reason = "it is not below 0")]
    let weight = weight as u16;
    weight
}

/// A page on its way.
#[derive(Debug)]
pub(super) struct PageBody {
    rest: Bytes,
    deadline: Instant,
    /// One of the few pages at a time is this one.
    _slot: OwnedSemaphorePermit,
}

/// The answer with a page that is given up at `deadline`.
pub(super) fn response(
    page: Bytes,
    format: PageFormat,
    deadline: Instant,
    slot: OwnedSemaphorePermit,
) -> Response<PageBody> {
    let mut response = Response::new(PageBody { rest: page, deadline, _slot: slot });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

impl Body for PageBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if Instant::now() >= self.deadline {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &[&'static str], expected: PageFormat) {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        assert_eq!(PageFormat::of(&headers), expected, "{accept:?}");
    }

    #[test]
    fn a_page_is_openmetrics_for_whoever_prefers_it() {
        check(&[], PageFormat::Text);
        check(&["*/*"], PageFormat::Text);
        check(&["text/html, */*;q=0.8"], PageFormat::Text);
        check(&["application/openmetrics-text"], PageFormat::OpenMetrics);
        check(
            &["text/plain;q=0.5", "Application/OpenMetrics-Text; Q=0.6"],
            PageFormat::OpenMetrics,
        );
        check(&["application/openmetrics-text;q=0"], PageFormat::Text);
        check(&["application/openmetrics-text;q=x, text/plain;q=0.1"], PageFormat::Text);
        check(&["text/plain, application/openmetrics-text"], PageFormat::Text);
        // Prometheus 2.53.
        check(
            &["application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;\
               version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            PageFormat::OpenMetrics,
        );
    }
}
