//! What was learned: artefacts, how they are used, how good they are, and forgetting.

use super::Id;
use crate::App;
use crate::access::{Deciding, Reading};
use crate::body::Json;
use crate::problem::{self, Problem};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_data::log::{Erased, Erasure};
use sommelier_engine::{ArtefactInfo, PipelineConfig};
use utoipa::ToSchema;

/// Exactly one of the two.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetRequest {
    user: Option<String>,
    item: Option<String>,
}

/// What was erased, and honestly what was not.
#[derive(Serialize, ToSchema)]
pub struct Receipt {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<String>,
    /// Counts of what is gone from the log and the catalogue.
    #[schema(value_type = Object)]
    erased: Erased,
    /// Artefacts that were trained before and still carry influence of what was erased.
    artefacts: Vec<String>,
    note: String,
}

/// Erase a user or an item from the log and the catalogue.
#[utoipa::path(post, path = "/v1/forget", tag = "decide",
    responses((status = 200, description = "The receipt", body = Receipt)))]
pub async fn forget(
    State(app): State<App>,
    Deciding(space): Deciding,
    Json(ForgetRequest { user, item }): Json<ForgetRequest>,
) -> Result<axum::Json<Receipt>, Problem> {
    let erasure = match (&user, &item) {
        (Some(user), None) => Erasure::User(user.clone()),
        (None, Some(item)) => Erasure::Item(item.clone()),
        _ => return Err(Problem::new(&problem::BAD_BODY, "expected exactly one of user and item")),
    };
    let (erased, artefacts) = app
        .store(move || {
            let erased = space.erase(&erasure)?;
            let artefacts = space.artefacts()?.into_iter().map(|a| a.name).collect::<Vec<String>>();
            Ok::<_, Problem>((erased, artefacts))
        })
        .await??;
    let note = if artefacts.is_empty() {
        "gone from the log and the catalogue; no artefact exists that could remember".to_owned()
    } else {
        "gone from the log and the catalogue; the artefacts listed were trained before and keep a statistical \
         influence of it until they are trained again or removed; backups made before still hold it"
            .to_owned()
    };
    Ok(axum::Json(Receipt { user, item, erased, artefacts, note }))
}

#[derive(Serialize, ToSchema)]
pub struct Artefacts {
    #[schema(value_type = Vec<Object>)]
    artefacts: Vec<ArtefactInfo>,
    /// The one that answers.
    published: Option<String>,
}

/// What was trained.
#[utoipa::path(get, path = "/v1/artefacts", tag = "decide",
    responses((status = 200, description = "All artefacts", body = Artefacts)))]
pub async fn artefacts(
    State(app): State<App>,
    Reading(space): Reading,
) -> Result<axum::Json<Artefacts>, Problem> {
    app.store(move || {
        let artefacts = space.artefacts()?;
        let published = space.published().map(|a| a.name.clone());
        Ok(axum::Json(Artefacts { artefacts, published }))
    })
    .await?
}

#[derive(Serialize, ToSchema)]
pub struct Published {
    published: String,
}

/// Let an artefact answer from now on. No request fails meanwhile.
#[utoipa::path(post, path = "/v1/artefacts/{id}/publish", tag = "decide", params(("id" = String, Path)),
    responses((status = 200, description = "It answers", body = Published)))]
pub async fn publish(
    State(app): State<App>,
    Deciding(space): Deciding,
    Id(name): Id,
) -> Result<axum::Json<Published>, Problem> {
    app.store(move || {
        space.publish(&name)?;
        Ok(axum::Json(Published { published: name }))
    })
    .await?
}

#[derive(Serialize, ToSchema)]
pub struct Pipelines {
    /// By scenario.
    #[schema(value_type = Object)]
    pipelines: std::collections::BTreeMap<String, PipelineConfig>,
}

/// How queries become slates, by scenario.
#[utoipa::path(get, path = "/v1/pipelines", tag = "decide",
    responses((status = 200, description = "All pipelines", body = Pipelines)))]
pub async fn pipelines(Reading(space): Reading) -> axum::Json<Pipelines> {
    axum::Json(Pipelines { pipelines: space.scenarios().into_iter().collect() })
}

#[derive(Serialize, ToSchema)]
pub struct Evaluations {
    /// Newest first, as `sommelier evaluate --json` prints them: runs with metrics, intervals and definitions.
    #[schema(value_type = Vec<Object>)]
    evaluations: Vec<Value>,
}

/// What was measured.
#[utoipa::path(get, path = "/v1/evaluations", tag = "decide",
    responses((status = 200, description = "All measurements kept", body = Evaluations)))]
pub async fn evaluations(
    State(app): State<App>,
    Reading(space): Reading,
) -> Result<axum::Json<Evaluations>, Problem> {
    app.store(move || axum::Json(Evaluations { evaluations: space.evaluations() })).await
}
