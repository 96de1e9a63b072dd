//! `POST /v1/events`, and what users and items have seen.

use super::{Id, Params, page_size};
use crate::access::{Reading, Writing};
use crate::body::Text;
use crate::problem::{self, Problem};
use crate::schema::{EventSchema, EventsBodySchema};
use crate::{App, many, telemetry};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sommelier_core::Event;
use sommelier_data::log::EventKey;
use utoipa::{IntoParams, ToSchema};

#[derive(Serialize, ToSchema)]
pub struct EventsStored {
    /// Events that are on disk now and count from now on.
    stored: usize,
    /// Events whose id was known already.
    duplicates: usize,
    /// Offset of the log behind them.
    offset: u64,
}

/// Tell what somebody did: one event, an array, or one a line (NDJSON).
///
/// When this answers, the events are on disk. A request is stored whole or not at all; if any event is bad, the problem
/// lists all bad ones and nothing is stored. With ids, sending it again changes nothing.
#[utoipa::path(post, path = "/v1/events", tag = "tell",
    request_body(content(
        (EventsBodySchema = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses((status = 200, description = "All stored", body = EventsStored)))]
pub async fn post_events(
    State(app): State<App>,
    Writing(space): Writing,
    body: Text,
) -> Result<axum::Json<EventsStored>, Problem> {
    let most = app.config().limits.events_per_request;
    let check = |event: &Event| event.check().map_err(|error| error.to_string());
    let events = many::read(&body, "event", most, &problem::BAD_EVENTS, check)
        .inspect_err(|problem| telemetry::refused_events(problem.fault_count()))?;
    drop(body);
    let appended = app.store(move || space.append(events)).await??;
    telemetry::events(appended.stored, appended.duplicates);
    Ok(axum::Json(EventsStored {
        stored: appended.stored,
        duplicates: appended.duplicates,
        offset: appended.offset,
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsPage {
    /// How many, at most; 100 if absent.
    limit: Option<u32>,
    /// The `next` of an earlier page.
    before: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct EventsList {
    /// Newest first.
    #[schema(value_type = Vec<EventSchema>)]
    events: Vec<Event>,
    /// Hand this back as `before` for older ones; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl EventsPage {
    fn read(&self, app: &App) -> Result<(Option<EventKey>, usize), Problem> {
        let before = match &self.before {
            None => None,
            Some(text) => Some(text.parse::<EventKey>().map_err(|error| {
                Problem::new(
                    &problem::BAD_REQUEST,
                    format!("before must be the next of an earlier page: {error}"),
                )
                .field("before")
            })?),
        };
        Ok((before, page_size(self.limit, app.config().limits.count_max)?))
    }
}

fn list((events, next): (Vec<Event>, Option<EventKey>)) -> axum::Json<EventsList> {
    axum::Json(EventsList { events, next: next.map(|key| key.to_string()) })
}

/// What a user did, newest first.
#[utoipa::path(get, path = "/v1/users/{id}/events", tag = "tell", params(("id" = String, Path), EventsPage),
    responses((status = 200, description = "Empty for a user without events", body = EventsList)))]
pub async fn user_events(
    State(app): State<App>,
    Reading(space): Reading,
    Id(id): Id,
    Params(page): Params<EventsPage>,
) -> Result<axum::Json<EventsList>, Problem> {
    let (before, limit) = page.read(&app)?;
    app.store(move || Ok(list(space.log().user_events(&id, before, limit)?))).await?
}

/// What was done with an item, newest first.
#[utoipa::path(get, path = "/v1/items/{id}/events", tag = "tell", params(("id" = String, Path), EventsPage),
    responses((status = 200, description = "Empty for an item without events", body = EventsList)))]
pub async fn item_events(
    State(app): State<App>,
    Reading(space): Reading,
    Id(id): Id,
    Params(page): Params<EventsPage>,
) -> Result<axum::Json<EventsList>, Problem> {
    let (before, limit) = page.read(&app)?;
    app.store(move || Ok(list(space.log().item_events(&id, before, limit)?))).await?
}
