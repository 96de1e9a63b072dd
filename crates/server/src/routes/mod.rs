//! All routes, and the OpenAPI description that is made from them.

mod catalogue;
mod events;
mod learned;
mod pictures;
mod recommend;
mod status;

use crate::App;
use crate::config::DEFAULT_SPACE;
use crate::problem::{self, Problem};
use crate::schema::ProblemSchema;
use axum::Router;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use sommelier_core::check_id;
use tower_http::compression::CompressionLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sommelier",
        description = "A recommender engine in one binary: a query goes in, a slate comes out.\n\n\
            Every error is a problem document (RFC 9457) with a stable `code`. Ids are any UTF-8 of at most 512 \
            bytes; in an address they are percent-encoded, `/` included."
    ),
    tags(
        (name = "ask", description = "Recommendations and what is behind them"),
        (name = "tell", description = "Events, items and users"),
        (name = "decide", description = "Artefacts, pipelines, forgetting"),
        (name = "status", description = "Whether it lives, and how fast"),
    ),
    components(schemas(ProblemSchema)),
)]
struct Described;

fn documented() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(recommend::recommend))
        .routes(routes!(recommend::explain))
        .routes(routes!(recommend::slate))
        .routes(routes!(events::post_events))
        .routes(routes!(events::user_events))
        .routes(routes!(events::item_events))
        .routes(routes!(catalogue::put_items, catalogue::list_items))
        .routes(routes!(
            catalogue::put_item,
            catalogue::get_item,
            catalogue::patch_item,
            catalogue::delete_item
        ))
        .routes(routes!(catalogue::put_users, catalogue::list_users))
        .routes(routes!(
            catalogue::put_user,
            catalogue::get_user,
            catalogue::patch_user,
            catalogue::delete_user
        ))
        .routes(routes!(learned::forget))
        .routes(routes!(learned::artefacts))
        .routes(routes!(learned::publish))
        .routes(routes!(learned::pipelines))
        .routes(routes!(learned::evaluations))
        .routes(routes!(pictures::cover))
        .routes(routes!(pictures::media))
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz))
        .routes(routes!(status::space_status))
        .routes(routes!(status::metrics))
        .routes(routes!(status::problem_page))
}

pub fn all() -> Router<App> {
    let router: Router<App> = documented().into();
    let swagger: Router<App> = SwaggerUi::new("/docs")
        .url("/openapi.json", description())
        // Asks nobody outside to validate the document.
        .config(Config::default().validator_url("none"))
        .into();
    router.merge(swagger.layer(CompressionLayer::new()))
}

pub fn description() -> Document {
    let mut document = documented().into_openapi();
    add_keys(&mut document);
    add_problems(&mut document);
    document
}

fn add_keys(document: &mut Document) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(format!(
            "Each key opens one space with one role. A key for all spaces chooses by the header X-Sommelier-Space, \
             {DEFAULT_SPACE:?} if absent."
        )))
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    components
        .add_security_scheme("key", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    let none: [&str; 0] = [];
    let requirements = vec![SecurityRequirement::new("bearer", none), SecurityRequirement::new("key", none)];
    for (path, item) in &mut document.paths.paths {
        if OPEN.contains(&path.as_str()) {
            continue;
        }
        for operation in operations(item) {
            operation.security = Some(requirements.clone());
        }
    }
}

/// Addresses that anybody may ask.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/problems/{code}"];

/// Every operation may answer with a problem; saying so once here keeps it true for each.
fn add_problems(document: &mut Document) {
    use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
    let problem = ResponseBuilder::new()
        .description("What went wrong, in words")
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build(),
        )
        .build();

    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            operation
                .responses
                .responses
                .entry("default".to_owned())
                .or_insert_with(|| RefOr::T(problem.clone()));
        }
    }
}

fn operations(
    item: &mut utoipa::openapi::PathItem,
) -> impl Iterator<Item = &mut utoipa::openapi::path::Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

/// The `{id}` of an address: any UTF-8, percent-decoded.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|error| {
            Problem::new(
                &problem::NOT_UTF8,
                format!("an id in an address must be percent-encoded UTF-8: {}", error.body_text()),
            )
        })?;
        check_id("the", &id).map_err(|error| Problem::new(&problem::BAD_REQUEST, error.to_string()))?;
        Ok(Id(id))
    }
}

/// What stands behind the `?`; unknown names are errors.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params<T>, Problem> {
        let Query(params) = Query::<T>::try_from_uri(&parts.uri).map_err(|error| {
            Problem::new(
                &problem::BAD_REQUEST,
                format!("what stands behind the ? cannot be read: {}", error.body_text()),
            )
        })?;
        Ok(Params(params))
    }
}

/// How many entries a page of a list may have.
fn page_size(limit: Option<u32>, most: u32) -> Result<usize, Problem> {
    match limit.unwrap_or(100.min(most)) {
        limit if (1..=most).contains(&limit) => Ok(limit as usize),
        limit => Err(Problem::new(
            &problem::BAD_REQUEST,
            format!("limit must be from 1 to {most}, received {limit}"),
        )
        .field("limit")),
    }
}
