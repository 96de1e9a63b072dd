//! The socket: accepts connections, bounds their number and the time a request's head may take, and ends them gently.

use crate::config::{ServerConfig, ServerError};
use crate::unread::Unread;
use crate::{App, Peer, router_of, telemetry};
use axum::Router;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sommelier_engine::Engine;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// Bounds what one connection may make us keep before we can refuse it in words.
const HEAD_BYTES: usize = 64 << 10;

/// A server that has its address and waits to be run.
pub struct Bound {
    listener: TcpListener,
    app: App,
    address: SocketAddr,
}

/// Takes the address. Requests wait from now on; [`Bound::serve`] answers them.
pub async fn bind(engine: Arc<Engine>, config: ServerConfig) -> Result<Bound, ServerError> {
    config.check()?;
    let address = config.listen;
    let failed = |source| ServerError::Bind { address, source };
    for (space, error) in engine.open_all() {
        tracing::error!(space, %error, "this space cannot be opened and does not answer");
    }
    let app = App::new(engine, config)?;
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, app, address })
}

/// Binds and runs until `shutdown` is done, then finishes what is in work.
pub async fn serve(
    engine: Arc<Engine>,
    config: ServerConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    bind(engine, config).await?.serve(shutdown).await
}

impl Bound {
    /// The real address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is done. Then takes no more connections, finishes the requests in work within the
    /// time limit, writes what waits in memory to disk, and returns.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let limits = self.app.config().limits.clone();
        let time = Duration::from_millis(limits.timeout_ms);
        let router = router_of(self.app.clone());
        let places = Arc::new(Semaphore::new(limits.connections));
        let (stop, stopped) = watch::channel(false);
        let metrics = self.app.metrics().clone();
        let upkeep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                metrics.run_upkeep();
            }
        });
        tracing::info!(address = %self.address, "listening");

        let mut shutdown = pin!(shutdown);
        loop {
            let next = async {
                // Waiting for a place before accepting leaves the rest in the system's own queue.
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut shutdown => break,
                next = next => next,
            };
            match (place, accepted) {
                (Ok(place), Ok((stream, peer))) => {
                    let serving = connection(stream, peer, router.clone(), time, stopped.clone());
                    tokio::spawn(async move {
                        telemetry::connections(1.0);
                        serving.await;
                        telemetry::connections(-1.0);
                        drop(place);
                    });
                }
                // Out of file descriptors, most likely: it passes when connections end.
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                (Err(_), _) => break,
            }
        }

        drop(self.listener);
        self.app.stopping();
        let _ = stop.send(true);
        // Reading and answering may each take the whole limit.
        let all = places.acquire_many(limits.connections as u32);
        if tokio::time::timeout(2 * time, all).await.is_err() {
            tracing::warn!("some requests were still in work after {:?} and are cut off", 2 * time);
        }
        upkeep.abort();
        self.app.flush().await;
        tracing::info!("stopped");
        Ok(())
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    time: Duration,
    mut stopped: watch::Receiver<bool>,
) {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let service = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        request.map(axum::body::Body::new)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(time)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Unread::new(stream, time)), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Broken connections and slow heads: nothing that we could do.
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}
