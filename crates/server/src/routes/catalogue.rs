//! `/v1/items` and `/v1/users`: what is known of things and people besides what happened.

use super::{Id, Params, page_size};
use crate::access::{Reading, Writing};
use crate::body::{Json, Text};
use crate::problem::{self, Problem};
use crate::schema::{ItemSchema, TimeSchema, UserSchema};
use crate::{App, many};
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sommelier_core::{Item, Time, User, check_id};
use utoipa::{IntoParams, ToSchema};

#[derive(Serialize, ToSchema)]
pub struct Stored {
    /// How many revisions are on disk now.
    stored: usize,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListPage {
    /// How many, at most; 100 if absent.
    limit: Option<u32>,
    /// The `next` of an earlier page: those with ids behind it.
    after: Option<String>,
}

/// An item without its id, which the address says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ItemBody {
    /// May be given, but then must be the one in the address.
    id: Option<String>,
    /// Hidden items are never in a slate.
    #[serde(default)]
    hidden: bool,
    /// From this moment on the item is never in a slate.
    #[schema(value_type = Option<TimeSchema>)]
    expires: Option<Time>,
    /// When it came into the catalogue.
    #[schema(value_type = Option<TimeSchema>)]
    at: Option<Time>,
    /// Free JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

/// A user without the id, which the address says.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserBody {
    /// May be given, but then must be the one in the address.
    id: Option<String>,
    #[schema(value_type = Option<TimeSchema>)]
    at: Option<Time>,
    #[serde(default)]
    #[schema(value_type = Object)]
    properties: Map<String, Value>,
}

fn same_id(address: &str, body: Option<&str>) -> Result<(), Problem> {
    match body {
        Some(id) if id != address => Err(Problem::new(
            &problem::BAD_BODY,
            format!("id: the address says {address:?}, the body says {id:?}; leave it out of the body"),
        )
        .field("id")),
        _ => Ok(()),
    }
}

/// The page, and the id to go on behind where there may be more.
fn page<T>(mut all: Vec<T>, limit: usize, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
    let more = all.len() > limit;
    all.truncate(limit);
    let next = all.last().filter(|_| more).map(|last| id(last).to_owned());
    (all, next)
}

#[derive(Serialize, ToSchema)]
pub struct ItemList {
    /// In order of their ids.
    #[schema(value_type = Vec<ItemSchema>)]
    items: Vec<Item>,
    /// Hand this back as `after` for the rest; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Store many items: an array, one a line (NDJSON), or a single one. Whole or not at all.
#[utoipa::path(post, path = "/v1/items", tag = "tell",
    request_body(content((Vec<ItemSchema> = "application/json"), (String = "application/x-ndjson"))),
    responses((status = 200, description = "All stored", body = Stored)))]
pub async fn put_items(
    State(app): State<App>,
    Writing(space): Writing,
    body: Text,
) -> Result<axum::Json<Stored>, Problem> {
    let most = app.config().limits.events_per_request;
    let check = |item: &Item| check_id("item", &item.id).map_err(|error| error.to_string());
    let items = many::read(&body, "item", most, &problem::BAD_LIST, check)?;
    let stored = items.len();
    app.store(move || space.put_items(items)).await??;
    Ok(axum::Json(Stored { stored }))
}

/// The items, in order of their ids.
#[utoipa::path(get, path = "/v1/items", tag = "tell", params(ListPage),
    responses((status = 200, description = "A page of them", body = ItemList)))]
pub async fn list_items(
    State(app): State<App>,
    Reading(space): Reading,
    Params(ListPage { limit, after }): Params<ListPage>,
) -> Result<axum::Json<ItemList>, Problem> {
    let limit = page_size(limit, app.config().limits.count_max)?;
    app.store(move || {
        let all = space.log().items(after.as_deref(), limit + 1)?;
        let (items, next) = page(all, limit, |item| &item.id);
        Ok(axum::Json(ItemList { items, next }))
    })
    .await?
}

/// Store an item, whatever was there before.
#[utoipa::path(put, path = "/v1/items/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 200, description = "As stored", body = ItemSchema)))]
pub async fn put_item(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
    Json(body): Json<ItemBody>,
) -> Result<axum::Json<Item>, Problem> {
    same_id(&id, body.id.as_deref())?;
    let item =
        Item { id, hidden: body.hidden, expires: body.expires, at: body.at, properties: body.properties };
    let answer = item.clone();
    app.store(move || space.put_items(vec![item])).await??;
    Ok(axum::Json(answer))
}

/// One item.
#[utoipa::path(get, path = "/v1/items/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 200, description = "Its latest revision", body = ItemSchema)))]
pub async fn get_item(
    State(app): State<App>,
    Reading(space): Reading,
    Id(id): Id,
) -> Result<axum::Json<Item>, Problem> {
    app.store(move || space.log().item(&id)?.map(axum::Json).ok_or_else(|| no_item(&id))).await?
}

/// Change an item: fields given replace, properties are merged, a property of null is removed.
#[utoipa::path(patch, path = "/v1/items/{id}", tag = "tell", params(("id" = String, Path)),
    request_body = ItemBody,
    responses((status = 200, description = "As it is now", body = ItemSchema)))]
pub async fn patch_item(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
    Json(patch): Json<Map<String, Value>>,
) -> Result<axum::Json<Item>, Problem> {
    app.store(move || Ok(axum::Json(space.patch_item(&id, &Value::Object(patch))?))).await?
}

/// Remove an item from the catalogue. What happened stays in the log; `/v1/forget` erases that too.
#[utoipa::path(delete, path = "/v1/items/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 204, description = "Removed")))]
pub async fn delete_item(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    app.store(move || if space.delete_item(&id)? { Ok(StatusCode::NO_CONTENT) } else { Err(no_item(&id)) })
        .await?
}

pub fn no_item(id: &str) -> Problem {
    Problem::new(&problem::UNKNOWN_ITEM, format!("there is no item {id:?}"))
}

#[derive(Serialize, ToSchema)]
pub struct UserList {
    /// In order of their ids.
    #[schema(value_type = Vec<UserSchema>)]
    users: Vec<User>,
    /// Hand this back as `after` for the rest; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Store many users: an array, one a line (NDJSON), or a single one. Whole or not at all.
#[utoipa::path(post, path = "/v1/users", tag = "tell",
    request_body(content((Vec<UserSchema> = "application/json"), (String = "application/x-ndjson"))),
    responses((status = 200, description = "All stored", body = Stored)))]
pub async fn put_users(
    State(app): State<App>,
    Writing(space): Writing,
    body: Text,
) -> Result<axum::Json<Stored>, Problem> {
    let most = app.config().limits.events_per_request;
    let check = |user: &User| check_id("user", &user.id).map_err(|error| error.to_string());
    let users = many::read(&body, "user", most, &problem::BAD_LIST, check)?;
    let stored = users.len();
    app.store(move || space.put_users(users)).await??;
    Ok(axum::Json(Stored { stored }))
}

/// The users, in order of their ids.
#[utoipa::path(get, path = "/v1/users", tag = "tell", params(ListPage),
    responses((status = 200, description = "A page of them", body = UserList)))]
pub async fn list_users(
    State(app): State<App>,
    Reading(space): Reading,
    Params(ListPage { limit, after }): Params<ListPage>,
) -> Result<axum::Json<UserList>, Problem> {
    let limit = page_size(limit, app.config().limits.count_max)?;
    app.store(move || {
        let all = space.log().users(after.as_deref(), limit + 1)?;
        let (users, next) = page(all, limit, |user| &user.id);
        Ok(axum::Json(UserList { users, next }))
    })
    .await?
}

/// Store a user, whatever was there before.
#[utoipa::path(put, path = "/v1/users/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 200, description = "As stored", body = UserSchema)))]
pub async fn put_user(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
    Json(body): Json<UserBody>,
) -> Result<axum::Json<User>, Problem> {
    same_id(&id, body.id.as_deref())?;
    let user = User { id, at: body.at, properties: body.properties };
    let answer = user.clone();
    app.store(move || space.put_users(vec![user])).await??;
    Ok(axum::Json(answer))
}

/// One user.
#[utoipa::path(get, path = "/v1/users/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 200, description = "Its latest revision", body = UserSchema)))]
pub async fn get_user(
    State(app): State<App>,
    Reading(space): Reading,
    Id(id): Id,
) -> Result<axum::Json<User>, Problem> {
    app.store(move || space.log().user(&id)?.map(axum::Json).ok_or_else(|| no_user(&id))).await?
}

/// Change a user: fields given replace, properties are merged, a property of null is removed.
#[utoipa::path(patch, path = "/v1/users/{id}", tag = "tell", params(("id" = String, Path)),
    request_body = UserBody,
    responses((status = 200, description = "As it is now", body = UserSchema)))]
pub async fn patch_user(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
    Json(patch): Json<Map<String, Value>>,
) -> Result<axum::Json<User>, Problem> {
    app.store(move || Ok(axum::Json(space.patch_user(&id, &Value::Object(patch))?))).await?
}

/// Remove a user from the catalogue. What happened stays in the log; `/v1/forget` erases that too.
#[utoipa::path(delete, path = "/v1/users/{id}", tag = "tell", params(("id" = String, Path)),
    responses((status = 204, description = "Removed")))]
pub async fn delete_user(
    State(app): State<App>,
    Writing(space): Writing,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    app.store(move || if space.delete_user(&id)? { Ok(StatusCode::NO_CONTENT) } else { Err(no_user(&id)) })
        .await?
}

pub fn no_user(id: &str) -> Problem {
    Problem::new(&problem::UNKNOWN_USER, format!("there is no user {id:?}"))
}
