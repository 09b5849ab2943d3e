//! The `http` check: an HTTP/1.1 request gets the expected answer (RFC 9110, RFC 9112).
//!
//! One connection a check, closed afterwards. One timeout covers connect, request and
//! answer, so a server that sends a byte now and then does not hold a check open. Only
//! what the verdict needs is read.

use std::{pin::pin, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    error::{CheckError, Phase},
    machine::Verdict,
    tcp,
    way::Detour,
};
use crate::model::{
    address::ServerAddress,
    snapshot::{BodyExpectation, HttpCheck},
};

/// How much of a body is searched, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;

/// How long the head of an answer may be, in bytes.
const HEAD_LIMIT: usize = 64 << 10;

/// A check that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`Verdict::Passed`], or [`Verdict::Nolb`] for a 404 under `disable_on_404`.
    pub verdict: Verdict,
    /// The answer's status code.
    pub status: u16,
}

/// Sends the request and judges the answer. Without a configured `host` the `Host` header
/// is `address`, `localhost` for a unix socket.
///
/// # Errors
/// [`CheckError`] if the answer is not the expected one, or does not come in time.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn check(
    address: ServerAddress,
    http: &HttpCheck,
    detour: Detour<'_>,
    timeout: Duration,
) -> Result<Answer, CheckError> {
    let deadline = Instant::now() + timeout;
    let request = request(address, http)?;
    let stream = tcp::connect(address, detour, timeout, deadline).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| classify(error, Phase::Answer))?;
    let exchange = async {
        let late = |phase| move |_| CheckError::Timeout { phase, after: timeout };
        let answer = timeout_at(deadline, sender.send_request(request))
            .await
            .map_err(late(Phase::Answer))?
            .map_err(|error| classify(error, Phase::Answer))?;
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        if http.disable_on_404 && head.status == StatusCode::NOT_FOUND {
            return Ok(Answer { verdict: Verdict::Nolb, status });
        }
        if !http.status.iter().any(|&(first, last)| (first..=last).contains(&status)) {
            return Err(CheckError::Status { got: status, expected: http.status.clone() });
        }
        if let Some(expectation) = &http.body {
            timeout_at(deadline, judge_body(body, expectation))
                .await
                .map_err(late(Phase::Body))??;
        }
        Ok(Answer { verdict: Verdict::Passed, status })
    };
    // The connection moves the bytes. It may end first, with parts of the answer still
    // on their way to `exchange`, and its errors reach `exchange` as well.
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ended = &mut connection => exchange.await,
    }
}

fn request(address: ServerAddress, http: &HttpCheck) -> Result<Request<Empty<Bytes>>, CheckError> {
    let mut request = Request::builder()
        .method(http.method.as_str())
        .uri(http.path.as_str())
        .header(header::CONNECTION, "close")
        .header(header::USER_AGENT, concat!("pointsman/", env!("CARGO_PKG_VERSION")));
    // A `Host` among the further headers takes the place of the default one.
    let named = http.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if http.host.is_some() || !named {
        let host = http.host.clone().unwrap_or_else(|| match address {
            ServerAddress::Ip(address) => address.to_string(),
            // As curl has it.
            ServerAddress::Unix(_) => "localhost".into(),
        });
        request = request.header(header::HOST, host);
    }
    for (name, value) in &http.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(CheckError::Request)
}

async fn judge_body(mut body: Incoming, expectation: &BodyExpectation) -> Result<(), CheckError> {
    let mut seen = Vec::new();
    let mut truncated = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| classify(error, Phase::Body))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = BODY_LIMIT - seen.len();
        seen.extend_from_slice(data.get(..room).unwrap_or(data));
        if data.len() > room {
            truncated = Some(BODY_LIMIT);
            break;
        }
    }
    let text = String::from_utf8_lossy(&seen);
    let (found, expectation) = match expectation {
        BodyExpectation::Contains(part) => (text.contains(part), format!("does not hold {part:?}")),
        BodyExpectation::Matches(regex) => {
            (regex.is_match(&text), format!("does not match {regex}"))
        }
    };
    if found { Ok(()) } else { Err(CheckError::Body { expectation, truncated }) }
}

fn classify(error: hyper::Error, phase: Phase) -> CheckError {
    let cut = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
    // A reset or a broken pipe.
    let broken = std::error::Error::source(&error)
        .is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
    if cut || broken { CheckError::Closed(phase) } else { CheckError::Invalid(error) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// For checks that are to time out.
    const SHORT: Duration = Duration::from_millis(300);
    /// For checks that are not, even on a busy machine.
    const LONG: Duration = Duration::from_secs(5);

    fn plain() -> HttpCheck {
        HttpCheck {
            method: "GET".into(),
            path: "/health".into(),
            host: None,
            headers: vec![("X-Probe".into(), "1".into())],
            status: vec![(200, 399)],
            body: None,
            disable_on_404: false,
        }
    }

    fn holding(text: &str) -> HttpCheck {
        HttpCheck { body: Some(BodyExpectation::Contains(text.into())), ..plain() }
    }

    /// Checks a server that reads the request's head and then does what `serve` does;
    /// returns the verdict as text, and the head.
    async fn probe<F>(
        http: &HttpCheck,
        timeout: Duration,
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> (String, String)
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            serve(stream).await;
            String::from_utf8(head).unwrap()
        });
        let verdict = match check(address, http, None, timeout).await {
            Ok(answer) => format!("{:?} {}", answer.verdict, answer.status),
            Err(error) => error.to_string(),
        };
        (verdict, server.await.unwrap())
    }

    async fn check_answer(http: &HttpCheck, answer: impl Into<Vec<u8>>, expected: &str) {
        let answer = answer.into();
        let (verdict, _head) = probe(http, LONG, |mut stream| async move {
            // The check may hang up before it has read everything.
            let _ = stream.write_all(&answer).await;
        })
        .await;
        assert!(verdict.starts_with(expected), "{verdict}, expected {expected}");
    }

    #[tokio::test]
    async fn an_accepted_status_passes() {
        check_answer(&plain(), "HTTP/1.1 200 OK\r\n\r\n", "Passed 200").await;
        check_answer(&plain(), "HTTP/1.0 302 Found\r\nContent-Length: 5\r\n\r\n", "Passed 302")
            .await;
    }

    #[tokio::test]
    async fn another_status_fails() {
        let answer = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        check_answer(&plain(), answer, "status 503, expected 200-399").await;
    }

    #[tokio::test]
    async fn not_found_asks_for_no_new_flows_where_configured() {
        let answer = "HTTP/1.1 404 Not Found\r\n\r\n";
        check_answer(&plain(), answer, "status 404").await;
        let http = HttpCheck { disable_on_404: true, ..holding("ready") };
        check_answer(&http, answer, "Nolb 404").await;
    }

    #[tokio::test]
    async fn the_request_is_as_configured() {
        let answer = |mut stream: TcpStream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        };
        let (_, head) = probe(&plain(), LONG, answer).await;
        assert!(head.starts_with("GET /health HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: 127.0.0.1:") && head.contains("x-probe: 1\r\n"), "{head}");
        assert!(head.contains("connection: close\r\n"), "{head}");

        let http = HttpCheck { method: "HEAD".into(), host: Some("db.test".into()), ..plain() };
        let (_, head) = probe(&http, LONG, answer).await;
        assert!(head.starts_with("HEAD "), "{head}");
        assert!(head.contains("host: db.test\r\n"), "{head}");

        let headers = vec![("Host".into(), "other.test".into())];
        let (_, head) = probe(&HttpCheck { headers, ..plain() }, LONG, answer).await;
        assert_eq!(head.matches("host: ").count(), 1, "{head}");
        assert!(head.contains("host: other.test\r\n"), "{head}");
    }

    #[tokio::test]
    async fn a_request_that_can_not_be_built_is_a_failure() {
        let http = HttpCheck { headers: vec![("a b".into(), "c".into())], ..plain() };
        let error = check("127.0.0.1:1".parse().unwrap(), &http, None, LONG).await.unwrap_err();
        assert!(error.to_string().starts_with("request can not be built: "), "{error}");
    }

    #[tokio::test]
    async fn the_body_is_searched() {
        let answer =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
        check_answer(&holding("ready"), answer, "Passed").await;
        check_answer(&holding("Ready"), answer, "body does not hold \"Ready\"").await;
        let matching = |text: &str| {
            let body = BodyExpectation::Matches(regex::Regex::new(text).unwrap());
            HttpCheck { body: Some(body), ..plain() }
        };
        check_answer(&matching("^rea?dy$"), answer, "Passed").await;
        check_answer(&matching("^down"), answer, "body does not match ^down").await;
    }

    #[tokio::test]
    async fn only_the_first_part_of_a_big_body_is_searched() {
        let answer = |before: usize| {
            let mut answer = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            answer.extend(std::iter::repeat_n(b'x', before));
            answer.extend(b"ready");
            answer.extend(std::iter::repeat_n(b'x', 1000));
            answer
        };
        check_answer(&holding("ready"), answer(BODY_LIMIT - 5), "Passed").await;
        let expected = "body does not hold \"ready\" in its first 1048576 bytes";
        check_answer(&holding("ready"), answer(BODY_LIMIT), expected).await;
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_told_from_one_that_babbles() {
        check_answer(&plain(), "", "connection closed before the answer").await;
        check_answer(&plain(), "HTTP/1.1 200", "connection closed before the answer").await;
        check_answer(&plain(), "220 mail.test ESMTP\r\n", "invalid answer: ").await;
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nrea";
        check_answer(&holding("ready"), cut, "connection closed before the body").await;
        check_answer(&plain(), cut, "Passed").await;
    }

    #[tokio::test]
    async fn an_oversize_head_is_refused() {
        let answer = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(2 * HEAD_LIMIT));
        check_answer(&plain(), answer, "invalid answer: ").await;
        let answer = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Many: 1\r\n".repeat(1000));
        check_answer(&plain(), answer, "invalid answer: ").await;
    }

    /// Holds the connection open until the check hangs up.
    async fn wait_for_close(mut stream: TcpStream) {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }

    #[tokio::test]
    async fn a_server_that_never_answers_times_out() {
        let (verdict, _) = probe(&plain(), SHORT, wait_for_close).await;
        assert_eq!(verdict, "timeout in answer after 300ms");
    }

    /// Sends `head`, then a byte every 20 ms until the check hangs up.
    async fn drip(http: HttpCheck, head: &'static str, expected: &str) {
        let (verdict, _) = probe(&http, SHORT, move |mut stream| async move {
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert_eq!(verdict, expected);
    }

    #[tokio::test]
    async fn a_dripping_server_times_out() {
        drip(plain(), "HTTP/1.1 200 OK\r\nX: ", "timeout in answer after 300ms").await;
        let head = "HTTP/1.1 200 OK\r\n\r\n";
        drip(holding("ready"), head, "timeout in body after 300ms").await;
        drip(plain(), head, "Passed 200").await;
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        drop(listener);
        let error = check(address, &plain(), None, LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "connection refused");
    }
}
