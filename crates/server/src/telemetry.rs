//! What Prometheus may ask: requests by route, events, slates and where their items came from.

use crate::config::ServerError;
use axum::http::Method;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sommelier_core::Slate;
use std::sync::OnceLock;

/// Seconds; close together where the promise of 15 ms is kept or broken.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The recorder of this process: made on first use, shared by all servers in it.
pub fn recorder() -> Result<PrometheusHandle, ServerError> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE.get_or_init(install).clone().map_err(ServerError::Metrics)
}

fn install() -> Result<PrometheusHandle, String> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())?;
    describe_counter!("sommelier_http_requests_total", "Requests answered, by method, route and status");
    describe_histogram!(
        "sommelier_http_request_seconds",
        "Time from the last header to the answer, by route"
    );
    describe_gauge!("sommelier_connections", "Open connections");
    describe_counter!("sommelier_events_total", "Events by what became of them: stored, duplicate, refused");
    describe_counter!("sommelier_slates_total", "Slates answered, by whether they were a fallback");
    describe_counter!("sommelier_slate_items_total", "Items in slates, by the source that found them");
    describe_histogram!("sommelier_answer_seconds", "Time to compute a slate, without waiting or HTTP");
    Ok(handle)
}

pub fn request(route: &str, method: &Method, status: u16, seconds: f64) {
    // Methods are any word a caller likes; only the usual ones get a series.
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let labels = [("method", method), ("route", route.to_owned()), ("status", status.to_string())];
    counter!("sommelier_http_requests_total", &labels).increment(1);
    histogram!("sommelier_http_request_seconds", "route" => route.to_owned()).record(seconds);
}

pub fn events(stored: usize, duplicates: usize) {
    counter!("sommelier_events_total", "result" => "stored").increment(stored as u64);
    counter!("sommelier_events_total", "result" => "duplicate").increment(duplicates as u64);
}

pub fn refused_events(count: usize) {
    counter!("sommelier_events_total", "result" => "refused").increment(count as u64);
}

pub fn slate(slate: &Slate, seconds: f64) {
    let fallback = if slate.fallback.is_some() { "yes" } else { "no" };
    counter!("sommelier_slates_total", "fallback" => fallback).increment(1);
    histogram!("sommelier_answer_seconds").record(seconds);
    // Runs of one source are the rule: one lookup a run, not one an item.
    for run in slate.items.chunk_by(|a, b| a.source == b.source) {
        counter!("sommelier_slate_items_total", "source" => run[0].source.clone())
            .increment(run.len() as u64);
    }
}

pub fn connections(change: f64) {
    gauge!("sommelier_connections").increment(change);
}
