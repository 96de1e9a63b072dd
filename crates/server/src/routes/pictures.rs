//! Pictures of items: covers drawn here, and files that an import left in the folder of the space.

use super::Id;
use super::catalogue::no_item;
use crate::App;
use crate::access::Reading;
use crate::console::media_type;
use crate::problem::{self, Problem};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use std::path::{Component, Path, PathBuf};

/// A picture file larger than this is a mistake.
const MAX_BYTES: u64 = 32 << 20;

/// A typographic cover for an item with a title.
#[utoipa::path(get, path = "/covers/{id}", tag = "ask",
    params(("id" = String, Path, description = "The item's id followed by .svg")),
    responses((status = 200, description = "The cover", body = String, content_type = "image/svg+xml")))]
pub async fn cover(
    State(app): State<App>,
    Reading(space): Reading,
    Id(file): Id,
) -> Result<Response, Problem> {
    let Some(id) = file.strip_suffix(".svg").map(str::to_owned) else {
        return Err(Problem::new(&problem::NO_ROUTE, "a cover's address is the item's id followed by .svg"));
    };
    let svg = app
        .store(move || {
            let item = space.log().item(&id)?.ok_or_else(|| no_item(&id))?;
            Ok::<String, Problem>(sommelier_data::world::cover(&item))
        })
        .await??;
    Ok(picture(svg.into_bytes(), "image/svg+xml"))
}

/// A picture that came with an import; item property `image` points to it.
#[utoipa::path(get, path = "/media/{file}", tag = "ask",
    params(("file" = String, Path)),
    responses((status = 200, description = "The picture", body = Vec<u8>, content_type = "image/*")))]
pub async fn media(
    State(app): State<App>,
    Reading(space): Reading,
    Id(name): Id,
) -> Result<Response, Problem> {
    let none = || Problem::new(&problem::NO_ROUTE, format!("there is no picture {name:?}"));
    let kind = media_type(&name);
    if !kind.starts_with("image/") {
        return Err(none());
    }
    let folder = space.media_dir();
    let file = inside(&folder, &name).ok_or_else(none)?;
    let read = app.store(move || read_picture(&folder, &file)).await?;
    read.map(|bytes| picture(bytes, kind)).ok_or_else(none)
}

/// The file `name` in `folder`, if it is a plain name.
fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    (plain && !name.contains(['\\', '\0'])).then(|| folder.join(name))
}

/// `None` for whatever is not a readable file inside the folder, links that lead out included.
fn read_picture(folder: &Path, file: &Path) -> Option<Vec<u8>> {
    let real = file.canonicalize().ok()?;
    if !real.starts_with(folder.canonicalize().ok()?) {
        return None;
    }
    let about = real.metadata().ok()?;
    if !about.is_file() || about.len() > MAX_BYTES {
        return None;
    }
    std::fs::read(real).ok()
}

fn picture(bytes: Vec<u8>, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=300"));
    // An SVG is a document too: opened by itself it may neither run nor load anything.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret.png"), "s").unwrap();
        let folder = dir.path().join("media");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a.png"), "a").unwrap();
        let read = |path: &str| inside(&folder, path).and_then(|file| read_picture(&folder, &file));
        assert_eq!(read("a.png").unwrap(), b"a");
        assert_eq!(read("../secret.png"), None);
        assert_eq!(read("x/../../secret.png"), None);
        assert_eq!(read(dir.path().join("secret.png").to_str().unwrap()), None);
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("secret.png"), folder.join("link.png")).unwrap();
            assert_eq!(read("link.png"), None);
        }
        assert_eq!(read("."), None);
        assert_eq!(read("x/a.png"), None);
        assert_eq!(read("nul\0.png"), None);
    }
}
