//! The console: files that its build left in `console/dist`, embedded here, or a page that says how to build it.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use rust_embed::{EmbeddedFile, RustEmbed};

#[derive(RustEmbed)]
#[folder = "../../console/dist"]
struct Dist;

/// Our pages load nothing from elsewhere; only pictures of items may come from where their owner keeps them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data: blob: https: http:; font-src 'self'; connect-src 'self'; manifest-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const NOT_BUILT: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Sommelier</title>
<style>
body { font: 17px/1.5 system-ui, sans-serif; max-width: 38em; margin: 12vh auto; padding: 0 1em; color: #222; background: #fff }
code { background: #8882; padding: .1em .3em; border-radius: .2em }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #111 } a { color: #8cf } }
</style>
<h1>Sommelier is running</h1>
<p>This binary was built without the web console. To have it, install Node 20 or later and run
<code>cargo xtask console</code>, then build again. <code>cargo xtask demo</code> does both.</p>
<p>Everything else is here: <a href="/docs/">the API with forms to try it</a>,
<a href="/openapi.json">its OpenAPI description</a>, <a href="/readyz">whether it is ready</a>.</p>
</html>
"#;

/// The file of the console at this path, if there is one.
pub fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let name = path.trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    match Dist::get(name) {
        Some(file) => Some(send(name, file, headers)),
        None if name == "index.html" => Some(page(NOT_BUILT)),
        None => None,
    }
}

fn send(name: &str, file: EmbeddedFile, headers: &HeaderMap) -> Response {
    let tag = file
        .metadata
        .sha256_hash()
        .iter()
        .take(16)
        .fold(String::from("\""), |tag, b| format!("{tag}{b:02x}"))
        + "\"";
    let fresh = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        // The compressed form of the same file carries a weak tag.
        .is_some_and(|known| known.split(',').any(|k| k.trim().trim_start_matches("W/") == tag));
    let body = if fresh { Body::empty() } else { Body::from(file.data.into_owned()) };
    let mut response = Response::new(body);
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    // The build puts a hash of the content into these names, so they never change.
    let lasting =
        if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(lasting));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

fn page(html: &'static str) -> Response {
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// By the ending of the name; what is not listed is a download and never run.
pub fn media_type(name: &str) -> &'static str {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    match ending.to_ascii_lowercase().as_str() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
