//! Whether the server lives, is ready, and how it fares.

use crate::App;
use crate::access::{Known, Reading};
use crate::problem::{self, Problem};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sommelier_engine::Readiness;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
pub struct Alive {
    status: &'static str,
    version: &'static str,
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "status",
    responses((status = 200, description = "It does", body = Alive)))]
pub async fn healthz() -> axum::Json<Alive> {
    axum::Json(Alive { status: "alive", version: env!("CARGO_PKG_VERSION") })
}

#[derive(Serialize, ToSchema)]
pub struct ReadyState {
    ready: bool,
    /// How many spaces answer.
    spaces: usize,
    /// How many others cannot be opened (the log says why) or have something to say under `/v1/status`.
    with_problems: usize,
}

/// Whether requests can be answered: 200, or 503 with what is missing. Names no space, since anybody may ask.
#[utoipa::path(get, path = "/readyz", tag = "status",
    responses((status = 200, description = "Ready", body = ReadyState)))]
pub async fn readyz(State(app): State<App>) -> Result<axum::Json<ReadyState>, Problem> {
    if app.is_stopping() {
        return Err(Problem::new(&problem::STOPPING, "the server is shutting down"));
    }
    let spaces = app.engine().opened();
    let closed = app.engine().spaces().len() - spaces.len();
    if spaces.is_empty() {
        return Err(Problem::new(
            &problem::NOT_READY,
            "no space is open; import something into one, or see the log for why those there cannot be opened",
        ));
    }
    let states =
        app.store(move || spaces.iter().map(|space| space.ready()).collect::<Vec<Readiness>>()).await?;
    if let Some(waiting) = states.iter().find(|state| !state.ready) {
        return Err(Problem::new(&problem::NOT_READY, waiting.problems.join("; ")));
    }
    let with_problems = states.iter().filter(|state| !state.problems.is_empty()).count() + closed;
    Ok(axum::Json(ReadyState { ready: true, spaces: states.len(), with_problems }))
}

/// How a space is: its artefact, its size, and what is wrong with it, in words.
#[utoipa::path(get, path = "/v1/status", tag = "status",
    responses((status = 200, description = "The state", body = Object)))]
pub async fn space_status(
    State(app): State<App>,
    Reading(space): Reading,
) -> Result<axum::Json<Readiness>, Problem> {
    app.store(move || axum::Json(space.ready())).await
}

/// Metrics in the text format of Prometheus. Needs any key.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>, _: Known) -> Response {
    let text = app.metrics().render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// What a kind of problem means and what to do about it.
#[utoipa::path(get, path = "/problems/{code}", tag = "status", params(("code" = String, Path)),
    responses((status = 200, description = "In plain words", body = String, content_type = "text/plain")))]
pub async fn problem_page(Path(code): Path<String>) -> Result<String, Problem> {
    let kind = problem::ALL.iter().find(|kind| kind.code == code);
    let kind = kind.ok_or_else(|| {
        let all: Vec<&str> = problem::ALL.iter().map(|kind| kind.code).collect();
        Problem::new(
            &problem::NO_ROUTE,
            format!("there is no problem of this kind; there are {}", all.join(", ")),
        )
    })?;
    Ok(format!("{} ({}, HTTP {})\n\n{}\n", kind.title, kind.code, kind.status, kind.advice))
}
