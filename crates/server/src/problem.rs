//! Problems: every error that a caller can see, as RFC 9457 writes it, with a stable code and words that help.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A kind of problem: its code never changes, so programs may rely on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub code: &'static str,
    pub status: u16,
    pub title: &'static str,
    /// What it means and what to do, for the page under `/problems/{code}`.
    pub advice: &'static str,
}

macro_rules! kinds {
    ($($name:ident $code:literal $status:literal $title:literal $advice:literal)*) => {
        $(pub static $name: Kind = Kind { code: $code, status: $status, title: $title, advice: $advice };)*
        /// All of them, by status.
        pub static ALL: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    BAD_REQUEST "bad_request" 400 "The request cannot be understood"
        "The detail says which part and what was expected."
    BAD_JSON "bad_json" 400 "The body is not JSON"
        "The text stops being JSON at the line and column given. Nothing was stored."
    NOT_UTF8 "not_utf8" 400 "Text is not UTF-8"
        "Send UTF-8; the offset of the first wrong byte is given. Nothing was stored."
    TOO_DEEP "too_deep" 400 "JSON is nested too deep"
        "Arrays and objects may be nested only as deep as limits.json_depth says."
    NO_KEY "no_key" 401 "An API key is needed"
        "Send it as Authorization: Bearer KEY or as X-API-Key."
    BAD_KEY "bad_key" 401 "The API key is not known"
        "Check for missing characters. The server knows only hashes of keys, so a lost key must be replaced."
    ROLE "role" 403 "The key's role does not allow this"
        "Roles are read, write and admin; each may do what the one before may. Ask for another key."
    OTHER_SPACE "other_space" 403 "The key belongs to another space"
        "Leave X-Sommelier-Space out, or use a key of the space that it names."
    FOREIGN_ORIGIN "foreign_origin" 403 "A web page from elsewhere asked"
        "Without a key only pages and programs of this machine may ask, addressing it by a loopback name."
    NO_ROUTE "no_route" 404 "There is nothing at this address"
        "GET /openapi.json lists all addresses, /docs shows them. An id that contains / must be written with %2F."
    UNKNOWN_SPACE "unknown_space" 404 "The space does not exist"
        "Spaces are made when something is imported into them."
    UNKNOWN_ITEM "unknown_item" 404 "The item does not exist"
        "The catalogue has no item with this id."
    UNKNOWN_USER "unknown_user" 404 "The user does not exist"
        "Nothing was ever said about a user with this id. Recommendations for unknown users work all the same."
    UNKNOWN_SLATE "unknown_slate" 404 "The slate does not exist"
        "Slates are recorded shortly after they are answered; one of a forgotten user is gone."
    UNKNOWN_ARTEFACT "unknown_artefact" 404 "The artefact does not exist"
        "GET /v1/artefacts lists them; sommelier train makes one."
    WRONG_METHOD "wrong_method" 405 "This address does not take this method"
        "The Allow header lists the methods that it takes."
    SLOW_REQUEST "slow_request" 408 "The request arrived too slowly"
        "The whole body must arrive within limits.timeout_ms. Nothing was stored."
    CONFLICT "conflict" 409 "The request contradicts what is there"
        "The detail says what stands against it."
    TOO_LARGE "too_large" 413 "The body is too large"
        "Send it in parts; limits.body_bytes and limits.events_per_request say how large a part may be. Nothing was stored."
    LONG_ADDRESS "long_address" 414 "The address is too long"
        "Ids have at most 512 bytes, so no address needs to be this long."
    MEDIA_TYPE "media_type" 415 "The body has the wrong type"
        "Send Content-Type: application/json, or application/x-ndjson for one event a line."
    BAD_BODY "bad_body" 422 "The body says something that cannot be"
        "The field is given where it can be told. Nothing was stored."
    BAD_QUERY "bad_query" 422 "The query cannot be answered as it stands"
        "The field is given where it can be told."
    BAD_EVENTS "bad_events" 422 "Some events cannot be taken"
        "errors lists them with index, field and reason. A request is stored whole or not at all, so none was stored."
    BAD_LIST "bad_list" 422 "Some entries cannot be taken"
        "errors lists them with index, field and reason. A request is stored whole or not at all, so none was stored."
    LARGE_HEADERS "large_headers" 431 "The headers are too large"
        "All headers together may have 32 KiB."
    RATE "rate" 429 "Too many requests"
        "Wait as many seconds as Retry-After says."
    INTERNAL "internal" 500 "Something went wrong inside"
        "This is a mistake in the program. The log has more under the request id."
    STORAGE "storage" 500 "The store could not do this"
        "The detail says what failed. What was not acknowledged was not stored."
    DISK_FULL "disk_full" 507 "The disk is full"
        "Free space and send the request again; nothing of it was stored."
    BUSY "busy" 503 "Too much at the same time"
        "Wait as many seconds as Retry-After says."
    NOT_READY "not_ready" 503 "The server cannot answer yet"
        "The detail says what is missing."
    STOPPING "stopping" 503 "The server is shutting down"
        "Ask again soon."
    TIMEOUT "timeout" 503 "The answer took too long"
        "A write may still be stored; send it again with the same event ids and it counts once."
}

/// One thing wrong among several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    /// From 0, in the order sent.
    pub index: usize,
    /// From 1, for NDJSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub reason: String,
}

/// An error on its way to the caller. Boxed, so that the way of those without one stays short.
#[derive(Debug, Clone)]
pub struct Problem(Box<Told>);

#[derive(Debug, Clone)]
struct Told {
    kind: &'static Kind,
    /// Not the kind's own where another layer knows better.
    code: &'static str,
    detail: String,
    field: Option<String>,
    place: Option<(usize, usize)>,
    faults: Vec<Fault>,
    faults_total: usize,
    retry_after: Option<u64>,
    request: Option<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "type")]
    type_: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Fault],
    #[serde(skip_serializing_if = "Option::is_none")]
    errors_total: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
}

impl Problem {
    pub fn new(kind: &'static Kind, detail: impl Into<String>) -> Problem {
        Problem(Box::new(Told {
            kind,
            code: kind.code,
            detail: detail.into(),
            field: None,
            place: None,
            faults: Vec::new(),
            faults_total: 0,
            retry_after: None,
            request: None,
        }))
    }

    /// A more exact code than the kind's, from a layer below.
    pub fn code(mut self, code: &'static str) -> Problem {
        self.0.code = code;
        self
    }

    /// Path of the field at fault: `history[3].at`.
    pub fn field(mut self, field: impl Into<String>) -> Problem {
        self.0.field = Some(field.into());
        self
    }

    /// Line and column in the body, from 1.
    pub fn at(mut self, line: usize, column: usize) -> Problem {
        self.0.place = Some((line, column));
        self
    }

    /// Lists at most the first hundred, and says how many there are.
    pub fn faults(mut self, mut faults: Vec<Fault>) -> Problem {
        self.0.faults_total = faults.len();
        faults.truncate(100);
        self.0.faults = faults;
        self
    }

    pub fn retry_after(mut self, seconds: u64) -> Problem {
        self.0.retry_after = Some(seconds);
        self
    }

    pub fn request(mut self, id: &str) -> Problem {
        self.0.request = Some(id.to_owned());
        self
    }

    pub fn kind(&self) -> &'static Kind {
        self.0.kind
    }

    /// How many entries of a list are at fault.
    pub fn fault_count(&self) -> usize {
        self.0.faults_total
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What to say of an error response that another layer made without words.
    pub fn from_status(status: StatusCode) -> Problem {
        let kind = ALL.iter().find(|k| k.status == status.as_u16()).copied();
        match kind {
            Some(kind) => Problem::new(kind, kind.advice),
            None if status.is_client_error() => {
                Problem::new(&BAD_REQUEST, format!("the request failed with {status}"))
            }
            None => Problem::new(&INTERNAL, format!("the request failed with {status}")),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let written = Written {
            type_: format!("/problems/{}", self.0.kind.code),
            title: self.0.kind.title,
            status: self.0.kind.status,
            detail: &self.0.detail,
            code: self.0.code,
            field: self.0.field.as_deref(),
            line: self.0.place.map(|p| p.0),
            column: self.0.place.map(|p| p.1),
            errors: &self.0.faults,
            errors_total: (self.0.faults_total > self.0.faults.len()).then_some(self.0.faults_total),
            request: self.0.request.as_deref(),
        };
        let body = serde_json::to_vec(&written).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.0.kind.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.kind.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sommelier\""));
        }
        // The outermost layer writes it again with the request id.
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_statuses_are_errors() {
        for (i, kind) in ALL.iter().enumerate() {
            assert!(kind.status >= 400 && kind.status < 600, "{}", kind.code);
            assert!(ALL[..i].iter().all(|other| other.code != kind.code), "{} twice", kind.code);
        }
    }

    #[test]
    fn unknown_statuses_still_get_words() {
        assert_eq!(Problem::from_status(StatusCode::IM_A_TEAPOT).kind(), &BAD_REQUEST);
        assert_eq!(Problem::from_status(StatusCode::BAD_GATEWAY).kind(), &INTERNAL);
        assert_eq!(Problem::from_status(StatusCode::METHOD_NOT_ALLOWED).kind(), &WRONG_METHOD);
    }
}
