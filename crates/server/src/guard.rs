//! The outermost layer: request ids, the access log, metrics, and the promise that every error leaves as a problem.

use crate::problem::{self, Problem};
use crate::{App, telemetry};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// An id may take 512 bytes, each up to three as %XX, twice in one address.
const MAX_ADDRESS: usize = 8 << 10;
const MAX_HEADERS: usize = 32 << 10;
/// Addresses that answer however busy the server is.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// What the inner layers tell the access log.
#[derive(Clone, Default)]
pub struct Noted {
    pub caller: Arc<Mutex<Option<Arc<str>>>>,
}

/// Wraps every request.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    // The pattern, not the address: ids of people do not belong into logs, nor each into a metric of its own.
    let route =
        request.extensions().get::<MatchedPath>().map_or("none".to_owned(), |m| m.as_str().to_owned());
    let noted = Noted::default();
    request.extensions_mut().insert(noted.clone());

    let response = match admit(&app, &request, &route) {
        Ok(_permit) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let response = finish(response, &id);

    let seconds = begun.elapsed().as_secs_f64();
    let status = response.status().as_u16();
    telemetry::request(&route, &method, status, seconds);
    let caller = noted.caller.lock().take();
    let code = response.extensions().get::<Problem>().map(|p| p.kind().code);
    let detail = response.extensions().get::<Problem>().map(Problem::detail);
    if status >= 500 {
        tracing::error!(request = %id, %method, route, status, seconds, caller = caller.as_deref(), code, detail, "answered");
    } else {
        tracing::info!(request = %id, %method, route, status, seconds, caller = caller.as_deref(), code, "answered");
    }
    response
}

fn admit<'a>(
    app: &'a App,
    request: &Request,
    route: &str,
) -> Result<Option<tokio::sync::SemaphorePermit<'a>>, Problem> {
    check_sizes(request.uri(), request.headers())?;
    if ALWAYS.contains(&route) {
        return Ok(None);
    }
    app.in_work().try_acquire().map(Some).map_err(|_| {
        let most = app.config().limits.concurrent_requests;
        Problem::new(&problem::BUSY, format!("{most} requests are in work already; come back in a second"))
            .retry_after(1)
    })
}

fn check_sizes(uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let address = uri.path_and_query().map_or(0, |p| p.as_str().len());
    if address > MAX_ADDRESS {
        return Err(Problem::new(
            &problem::LONG_ADDRESS,
            format!("an address may have {MAX_ADDRESS} bytes, this one has {address}"),
        ));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > MAX_HEADERS {
        return Err(Problem::new(
            &problem::LARGE_HEADERS,
            format!("all headers together may have {MAX_HEADERS} bytes, these have {bytes}"),
        ));
    }
    Ok(())
}

/// The caller's own id where it is harmless, else one made of this process and a count.
fn request_id(headers: &HeaderMap) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let own = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|id| {
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    });
    match own {
        Some(id) => id.to_owned(),
        None => format!("{:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Puts the request id on the answer, and words on an error that has none.
fn finish(response: Response, id: &str) -> Response {
    let mut response = match response.extensions().get::<Problem>().cloned() {
        Some(problem) => with_headers_of(&response, problem.request(id)),
        None if response.status().is_client_error() || response.status().is_server_error() => {
            with_headers_of(&response, Problem::from_status(response.status()).request(id))
        }
        None => response,
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// `problem` with what the first answer said besides its body: `Allow`, `Retry-After`.
fn with_headers_of(first: &Response, problem: Problem) -> Response {
    let mut response = problem.into_response();
    for name in [header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = first.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// A panic becomes a problem; its words go to the log and not to the caller.
#[allow(clippy::needless_pass_by_value, reason = "the layer that calls it hands it over")]
pub fn panicked(payload: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!(panic = panic_words(&*payload), "a handler panicked");
    Problem::new(&problem::INTERNAL, "the program made a mistake; the log has more under the request id")
        .into_response()
}

pub fn panic_words(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}

/// Whatever no route takes: a file of the console, or nothing.
pub async fn fallback(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if (method == Method::GET || method == Method::HEAD)
        && let Some(response) = crate::console::file(uri.path(), &headers)
    {
        return response;
    }
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(
        &problem::NO_ROUTE,
        format!("there is nothing at {path}; GET /openapi.json lists all addresses"),
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_problem_without_its_words() {
        use axum::routing::get;
        use tower::ServiceExt;
        async fn handler() {
            panic!("the secret words");
        }
        let router: axum::Router = axum::Router::new()
            .route("/", get(handler))
            .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked));
        let response = router.oneshot(Request::new(axum::body::Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("\"code\":\"internal\"") && !text.contains("secret"), "{text}");

        let problem = crate::off_worker::<()>(|| panic!("the secret words")).await.unwrap_err();
        assert_eq!(problem.kind(), &problem::INTERNAL);
        assert!(!problem.detail().contains("secret"));
    }

    #[test]
    fn only_harmless_ids_are_taken_over() {
        let id = |own: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, own.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(id("abc-1"), "abc-1");
        assert_ne!(id("a b"), "a b");
        assert_ne!(id(&"x".repeat(65)), "x".repeat(65));
        assert_ne!(id("\" or 1"), id("\" or 1"), "made ids differ");
    }
}
