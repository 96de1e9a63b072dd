//! The HTTP server: native API under `/v1`, keys and limits, problems, OpenAPI, metrics and the embedded console.
//!
//! It knows HTTP and nothing about recommending: a request is checked, handed to a [`Space`] and the answer written
//! down. A handler gets a space only by naming the role it needs ([`access`]), and every error of every layer leaves
//! as a problem document ([`problem`]).

mod access;
mod body;
mod config;
mod console;
mod guard;
mod listen;
mod many;
mod problem;
mod routes;
mod schema;
mod telemetry;
mod translate;
mod unread;

pub use config::{DEFAULT_SPACE, KeyConfig, Limits, Role, ServerConfig, ServerError, hash_key, new_key};
pub use listen::{Bound, bind, serve};

use access::Access;
use axum::Router;
use axum::middleware::from_fn_with_state;
use metrics_exporter_prometheus::PrometheusHandle;
use problem::Problem;
use sommelier_engine::{Engine, Space};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

/// Address of whoever sent a request; put there by the accept loop.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// All routes, for tests and for embedding in another server. Without a [`Peer`] in a request's extensions its caller
/// counts as remote and needs a key.
pub fn router(engine: Arc<Engine>, config: ServerConfig) -> Result<Router, ServerError> {
    config.check()?;
    Ok(router_of(App::new(engine, config)?))
}

fn router_of(app: App) -> Router {
    routes::all()
        .fallback(guard::fallback)
        .layer(CatchPanicLayer::custom(guard::panicked))
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

/// The OpenAPI 3.1 description of the API, as served at `/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes::description()
}

/// What all handlers share.
#[derive(Clone)]
struct App(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    config: ServerConfig,
    access: Access,
    metrics: PrometheusHandle,
    /// One permit per request in work.
    in_work: Semaphore,
    /// One permit per answer being computed: more than there are cores would only slow each other down.
    computing: Semaphore,
    stopping: AtomicBool,
}

impl App {
    fn new(engine: Arc<Engine>, config: ServerConfig) -> Result<App, ServerError> {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Ok(App(Arc::new(Shared {
            engine,
            access: Access::new(&config)?,
            metrics: telemetry::recorder()?,
            in_work: Semaphore::new(config.limits.concurrent_requests.min(Semaphore::MAX_PERMITS)),
            computing: Semaphore::new(cores),
            stopping: AtomicBool::new(false),
            config,
        })))
    }

    fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    fn access(&self) -> &Access {
        &self.0.access
    }

    fn metrics(&self) -> &PrometheusHandle {
        &self.0.metrics
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn in_work(&self) -> &Semaphore {
        &self.0.in_work
    }

    fn space(&self, name: &str) -> Result<Arc<Space>, Problem> {
        Ok(self.0.engine.space(name)?)
    }

    /// Events are on disk since they were acknowledged; slates and counters may still wait.
    async fn flush(&self) {
        let spaces = self.0.engine.opened();
        let flushing = off_worker(move || {
            for space in spaces {
                if let Err(error) = space.flush() {
                    tracing::error!(space = space.name(), %error, "cannot write everything to disk");
                }
            }
        });
        // A panic is in the log already.
        let _ = flushing.await;
    }

    fn stopping(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
    }

    fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// Runs what computes: as many at a time as there are cores, in order of arrival, on the async worker itself. An
    /// answer takes well under a millisecond, less than handing it to another thread and back; the time limit covers
    /// the wait for a turn.
    async fn compute<T>(&self, job: impl FnOnce() -> T) -> Result<T, Problem> {
        self.within_time(async {
            // Never closed, so there is always a permit to come.
            let _permit = self.0.computing.acquire().await;
            Ok(job())
        })
        .await
    }

    /// Runs what waits for the disk on a thread of its own.
    async fn store<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        self.within_time(off_worker(job)).await
    }

    async fn within_time<T>(&self, job: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let time = Duration::from_millis(self.config().limits.timeout_ms);
        tokio::time::timeout(time, job).await.unwrap_or_else(|_| {
            Err(Problem::new(
                &problem::TIMEOUT,
                format!("no answer within {} ms; a write may still be stored", time.as_millis()),
            ))
        })
    }
}

/// A long job on an async worker would keep all other connections of that worker waiting.
async fn off_worker<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(job).await.map_err(|error| match error.try_into_panic() {
        Ok(payload) => {
            tracing::error!(panic = guard::panic_words(&*payload), "a job panicked");
            Problem::new(
                &problem::INTERNAL,
                "the program made a mistake; the log has more under the request id",
            )
        }
        Err(_) => Problem::new(&problem::STOPPING, "the server is shutting down"),
    })
}
