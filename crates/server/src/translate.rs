//! Errors of the layers below in the words of HTTP.

use crate::problem::{self, Fault, Problem};
use sommelier_data::log::LogError;
use sommelier_engine::{EngineError, QueryError};

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Problem {
        if error.is_internal() {
            // What broke is for the log; it may name files.
            tracing::error!(%error, "a query could not be answered");
            return Problem::new(
                &problem::INTERNAL,
                "the engine could not answer; the log has more under the request id",
            );
        }
        let problem = Problem::new(&problem::BAD_QUERY, error.to_string()).code(error.code);
        match error.field {
            Some(field) => problem.field(field),
            None => problem,
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Problem {
        let kind = match &error {
            EngineError::UnknownSpace { .. } => &problem::UNKNOWN_SPACE,
            EngineError::UnknownArtefact { .. } => &problem::UNKNOWN_ARTEFACT,
            EngineError::Name { .. } | EngineError::Invalid(_) => &problem::BAD_BODY,
            EngineError::Artefact { .. } => &problem::CONFLICT,
            EngineError::UnknownId { what: "item", .. } => &problem::UNKNOWN_ITEM,
            EngineError::UnknownId { .. } => &problem::UNKNOWN_USER,
            EngineError::Log(_) => {
                let EngineError::Log(error) = error else { unreachable!("matched above") };
                return error.into();
            }
            _ => {
                tracing::error!(%error, "the engine failed");
                return Problem::new(
                    &problem::INTERNAL,
                    "the engine could not do this; the log has more under the request id",
                );
            }
        };
        Problem::new(kind, error.to_string())
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Problem {
        match error {
            LogError::Event { index, ref reason } => {
                let fault = Fault { index, line: None, field: None, reason: reason.to_string() };
                Problem::new(&problem::BAD_EVENTS, error.to_string()).faults(vec![fault])
            }
            LogError::Id(_) => Problem::new(&problem::BAD_BODY, error.to_string()),
            LogError::TooManyKinds { .. } => Problem::new(&problem::CONFLICT, error.to_string()),
            LogError::Full { .. } => {
                tracing::error!(%error, "the disk is full");
                Problem::new(
                    &problem::DISK_FULL,
                    "no space is left on the server's disk; nothing of this request was stored: have space freed and \
                     send it again",
                )
            }
            // Its words name files of the server, so they stay in its log.
            error => {
                tracing::error!(%error, "the store failed");
                Problem::new(
                    &problem::STORAGE,
                    "the store failed and acknowledged nothing; the log has more under the request id",
                )
            }
        }
    }
}
