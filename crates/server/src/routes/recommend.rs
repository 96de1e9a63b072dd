//! `POST /v1/recommend`, and what is behind an answer.

use super::Id;
use crate::access::Reading;
use crate::body::Json;
use crate::problem::{self, Problem};
use crate::schema::{QuerySchema, ReasonSchema, SlateRecordSchema, SlateSchema};
use crate::{App, telemetry};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sommelier_core::{Query, Reason, Slate};
use sommelier_data::log::SlateRecord;
use std::time::Instant;
use utoipa::ToSchema;

/// Ask for a slate.
#[utoipa::path(post, path = "/v1/recommend", tag = "ask", request_body = QuerySchema,
    responses((status = 200, description = "The slate, best item first", body = SlateSchema)))]
pub async fn recommend(
    State(app): State<App>,
    Reading(space): Reading,
    Json(query): Json<Query>,
) -> Result<axum::Json<Slate>, Problem> {
    let most = app.config().limits.count_max;
    if let Some(count) = query.count.filter(|&count| count == 0 || count > most) {
        return Err(Problem::new(
            &problem::BAD_QUERY,
            format!("count: expected 1 to {most}, received {count}; ask for more with page"),
        )
        .code("count")
        .field("count"));
    }
    let slate = app
        .compute(move || {
            let begun = Instant::now();
            let slate = space.answer(&query)?;
            telemetry::slate(&slate, begun.elapsed().as_secs_f64());
            Ok::<Slate, Problem>(slate)
        })
        .await??;
    Ok(axum::Json(slate))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    user: String,
    item: String,
}

#[derive(Serialize, ToSchema)]
pub struct Explanation {
    user: String,
    item: String,
    /// Largest share first; empty where the model cannot tell.
    #[schema(value_type = Vec<ReasonSchema>)]
    reasons: Vec<Reason>,
}

/// Ask why an item would be shown to a user.
#[utoipa::path(post, path = "/v1/explain", tag = "ask",
    responses((status = 200, description = "The reasons", body = Explanation)))]
pub async fn explain(
    State(app): State<App>,
    Reading(space): Reading,
    Json(ExplainRequest { user, item }): Json<ExplainRequest>,
) -> Result<axum::Json<Explanation>, Problem> {
    app.compute(move || {
        let reasons = space.explain(&user, &item)?;
        Ok(axum::Json(Explanation { user, item, reasons }))
    })
    .await?
}

/// A slate as it was shown, with its query.
#[utoipa::path(get, path = "/v1/slates/{id}", tag = "ask", params(("id" = String, Path)),
    responses((status = 200, description = "The record", body = SlateRecordSchema)))]
pub async fn slate(
    State(app): State<App>,
    Reading(space): Reading,
    Id(id): Id,
) -> Result<axum::Json<SlateRecord>, Problem> {
    app.store(move || {
        space.slate(&id)?.map(axum::Json).ok_or_else(|| {
            Problem::new(
                &problem::UNKNOWN_SLATE,
                format!("there is no slate {id:?}; slates are recorded shortly after they are answered"),
            )
        })
    })
    .await?
}
