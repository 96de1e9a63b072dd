//! Pictures of items as vectors: their colours, edges and textures, and the principal axes of these.
//!
//! Colour: a histogram of hue × saturation × value (8 × 4 × 4). Edges: in each cell of a 6 × 6 grid, how strong edges of 9
//! directions are, as a share of the strength in the cells around. Texture: a histogram of local binary patterns (which of the 8
//! neighbours are at least as bright as a pixel, 58 patterns with at most two changes around it, all others as one) in each quarter.
//! Histograms are roots of shares. The three are brought to the same variance, and y = (x − μ) W, see `fuse.rs` with `pca`.
//!
//! Shapes: a picture (side × side pixels) → 128 + 324 + 236 numbers → y (dim). Cost: decoding, and about 50 operations a pixel.
//! Sources: Swain, Ballard, "Color Indexing", IJCV 1991; Dalal, Triggs, "Histograms of Oriented Gradients for Human Detection",
//! CVPR 2005; Ojala, Pietikäinen, Mäenpää, "Multiresolution Gray-Scale and Rotation Invariant Texture Classification with Local
//! Binary Patterns", PAMI 2002; roots: Arandjelović, Zisserman, CVPR 2012.
//! Departures: pictures are stretched to a square and laid on white; a cell is normalised once, by the nine cells around it.
//! This tells looks apart, not what is shown; that needs a trained network.

use crate::encoder::{Encoder, Problem, Vectors, plan};
use crate::fuse::{FuseConfig, FuseEncoder, Method};
use crate::{EncodeError, require};
use image::{ImageReader, Limits, RgbImage, Rgba};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sommelier_core::{FitContext, Item};
use sommelier_nn::{LoadError, Weights};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Component, Path, PathBuf};

/// Defaults are customary, not searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesConfig {
    /// The property that holds a path, or the picture itself as a `data:` URI.
    pub property: String,
    /// Where paths begin; none leads out of it.
    pub folder: PathBuf,
    /// Length of the vectors; shorter where there are fewer pictures.
    pub dim: usize,
    /// Pictures are looked at in so many pixels each way.
    pub side: usize,
    /// How much `colour`, `edges` and `texture` count; 1 for those not named.
    pub boost: BTreeMap<String, f32>,
    /// Whether vectors have unit length.
    pub unit: bool,
}

impl Default for ImagesConfig {
    fn default() -> ImagesConfig {
        ImagesConfig {
            property: "image".into(),
            folder: PathBuf::new(),
            dim: 64,
            side: 128,
            boost: BTreeMap::new(),
            unit: true,
        }
    }
}

/// The axes of what pictures look like.
#[derive(Debug, Clone)]
pub struct ImagesEncoder {
    config: ImagesConfig,
    axes: FuseEncoder,
    problems: Vec<Problem>,
}

/// What is measured of a picture, and in how many numbers.
const PARTS: [(&str, usize); 3] =
    [("colour", HUES * SHADES * SHADES), ("edges", GRID * GRID * TURNS), ("texture", 4 * PATTERNS)];
const HUES: usize = 8;
const SHADES: usize = 4;
const GRID: usize = 6;
const TURNS: usize = 9;
const PATTERNS: usize = 59;
/// Larger files are no pictures of items.
const MOST_BYTES: u64 = 64 << 20;
/// Pixels each way of a picture that is decoded, and bytes that it may take.
const MOST_PIXELS: u32 = 16_384;
const MOST_MEMORY: u64 = 512 << 20;

impl ImagesConfig {
    pub fn fit(
        &self,
        items: &[Option<Item>],
        _: &BTreeMap<String, Vectors>,
        ctx: &FitContext,
    ) -> Result<(ImagesEncoder, Vectors), EncodeError> {
        require("side", self.side as f64, (16..=1024).contains(&self.side), "from 16 to 1024")?;
        let n = items.len();
        let numbers: usize = PARTS.iter().map(|(_, n)| n).sum();
        plan(
            ctx,
            4 * 3 * (n * numbers) as u64,
            &format!("{numbers} numbers for each of {n} pictures"),
            "fit on fewer items",
        )?;
        ctx.progress.start("pictures", Some(n as u64));
        let mut looks: Vec<Option<[Vec<f32>; 3]>> = Vec::with_capacity(n);
        let mut problems = Vec::new();
        // A few at a time, so that a stop is heard.
        for chunk in items.chunks(256) {
            ctx.cancel.check()?;
            let seen: Vec<_> =
                chunk.par_iter().map(|item| item.as_ref().and_then(|item| self.look(item))).collect();
            for (item, seen) in chunk.iter().zip(seen) {
                let id = item.as_ref().map_or("", |item| &item.id);
                looks.push(match seen {
                    Some(Err(reason)) => {
                        problems.push(Problem { item: id.to_owned(), reason });
                        None
                    }
                    Some(Ok(look)) => Some(look),
                    None => None,
                });
            }
            ctx.progress.at(looks.len() as u64);
        }
        ctx.progress.finish();
        let found = looks.iter().flatten().count();
        if found == 0 {
            let first =
                problems.first().map_or_else(String::new, |p| format!(" (first: {}: {})", p.item, p.reason));
            return Err(EncodeError::NoData(format!(
                "none of {n} items has a picture in {}, {} could not be read{first}; check property and folder",
                self.property,
                problems.len()
            )));
        }
        let part = |(k, (name, dim)): (usize, &(&str, usize))| {
            let rows = looks.iter().map(|look| look.as_ref().map(|look| look[k].clone()));
            ((*name).to_owned(), Vectors::from_rows(*dim, rows))
        };
        let named = PARTS.iter().enumerate().map(part).collect();
        let (axes, vectors) = self.axes().fit(items, &named, ctx)?;
        Ok((ImagesEncoder { config: self.clone(), axes, problems }, vectors))
    }

    pub fn load(&self, weights: &Weights) -> Result<ImagesEncoder, LoadError> {
        let axes = self.axes().load(weights)?;
        Ok(ImagesEncoder { config: self.clone(), axes, problems: Vec::new() })
    }

    fn axes(&self) -> FuseConfig {
        FuseConfig {
            inputs: PARTS.iter().map(|(name, _)| (*name).to_owned()).collect(),
            method: Method::Pca,
            dim: self.dim,
            whiten: false,
            boost: self.boost.clone(),
            unit: self.unit,
            ..FuseConfig::default()
        }
    }

    /// What an item's picture looks like, or why it could not be seen; `None` where it has none.
    fn look(&self, item: &Item) -> Option<Result<[Vec<f32>; 3], String>> {
        let bytes = picture_bytes(item, &self.property, &self.folder)?;
        Some(bytes.and_then(|bytes| decoded(&bytes)).map(|picture| self.measured(&picture)))
    }

    /// Colour, edges and texture.
    fn measured(&self, picture: &RgbImage) -> [Vec<f32>; 3] {
        let side = self.side as u32;
        let small = image::imageops::resize(picture, side, side, image::imageops::FilterType::Triangle);
        let grey: Vec<f32> = small
            .pixels()
            .map(|p| (0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2])) / 255.0)
            .collect();
        [colours(&small), edges(&grey, self.side), textures(&grey, self.side)]
    }
}

impl Encoder for ImagesEncoder {
    fn dim(&self) -> usize {
        self.axes.dim()
    }

    fn encode(&self, item: &Item, _: &dyn Fn(&str) -> Option<Vec<f32>>) -> Option<Vec<f32>> {
        let look = self.config.look(item)?.ok()?;
        let part = |name: &str| PARTS.iter().position(|(part, _)| *part == name).map(|k| look[k].clone());
        self.axes.encode(item, &part)
    }

    fn weights(&self) -> Weights {
        self.axes.weights()
    }

    fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn report(&self) -> Vec<String> {
        self.axes.report()
    }
}

/// The file of an item's picture, or why it cannot be read; `None` where the item has none.
pub(crate) fn picture_bytes(item: &Item, property: &str, folder: &Path) -> Option<Result<Vec<u8>, String>> {
    let value = item.properties.get(property).filter(|v| !v.is_null())?;
    Some(match value {
        Value::String(text) => file_bytes(text, folder),
        _ => Err(format!("{property} must be a path or a data: URI, received something else")),
    })
}

fn file_bytes(text: &str, folder: &Path) -> Result<Vec<u8>, String> {
    if let Some(rest) = text.trim_start().strip_prefix("data:") {
        let (kind, data) = rest.split_once(',').ok_or("its data: URI has no comma")?;
        if !kind.to_ascii_lowercase().ends_with(";base64") {
            return Err("its data: URI is not in base64".into());
        }
        return base64(data).ok_or_else(|| "its data: URI holds letters that are not base64".into());
    }
    if text.contains("://") {
        return Err(
            "it is an address; nothing is fetched from the network, put a file into the folder".into()
        );
    }
    let path = Path::new(text.trim());
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err("its path leads out of the folder".into());
    }
    let path = folder.join(path);
    let unreadable = |e: std::io::Error| format!("{} cannot be read ({e})", path.display());
    let size = std::fs::metadata(&path).map_err(unreadable)?.len();
    if size > MOST_BYTES {
        return Err(format!(
            "{} has {} MiB, at most {} are read",
            path.display(),
            size >> 20,
            MOST_BYTES >> 20
        ));
    }
    std::fs::read(&path).map_err(unreadable)
}

/// The picture in the bytes of a file, laid on white.
pub(crate) fn decoded(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| format!("cannot be read ({e})"))?;
    if reader.format().is_none() {
        return Err("it is no picture in a known format (png, jpeg, gif, webp, bmp)".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let picture = reader.decode().map_err(|e| format!("it does not decode: {e}"))?.to_rgba8();
    let (width, height) = picture.dimensions();
    if width == 0 || height == 0 {
        return Err("it has no pixels".into());
    }
    Ok(RgbImage::from_fn(width, height, |x, y| {
        let Rgba([r, g, b, a]) = *picture.get_pixel(x, y);
        let on_white = |v: u8| ((u32::from(v) * u32::from(a) + 255 * (255 - u32::from(a)) + 127) / 255) as u8;
        image::Rgb([on_white(r), on_white(g), on_white(b)])
    }))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0);
    for letter in text.trim_end().trim_end_matches('=').bytes().filter(|b| !b.is_ascii_whitespace()) {
        let six = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
        }
    }
    // One letter alone is less than a byte.
    (bits < 6).then_some(out)
}

/// Each number as the root of its share of the sum.
fn shares(counts: &mut [f32]) {
    let sum: f32 = counts.iter().sum();
    if sum > 0.0 {
        counts.iter_mut().for_each(|c| *c = (*c / sum).sqrt());
    }
}

/// Hue, saturation and value, each from 0 to 1.
fn hsv([r, g, b]: [u8; 3]) -> [f32; 3] {
    let [r, g, b] = [r, g, b].map(|v| f32::from(v) / 255.0);
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let range = most - least;
    let sixth = if range == 0.0 {
        0.0
    } else if most == r {
        ((g - b) / range).rem_euclid(6.0)
    } else if most == g {
        (b - r) / range + 2.0
    } else {
        (r - g) / range + 4.0
    };
    [sixth / 6.0, if most > 0.0 { range / most } else { 0.0 }, most]
}

fn colours(picture: &RgbImage) -> Vec<f32> {
    let mut counts = vec![0f32; HUES * SHADES * SHADES];
    let step = |v: f32, steps: usize| ((v * steps as f32) as usize).min(steps - 1);
    for pixel in picture.pixels() {
        let [h, s, v] = hsv(pixel.0);
        counts[(step(h, HUES) * SHADES + step(s, SHADES)) * SHADES + step(v, SHADES)] += 1.0;
    }
    shares(&mut counts);
    counts
}

fn edges(grey: &[f32], side: usize) -> Vec<f32> {
    /// Below this a cell has no edges but noise.
    const FAINT: f32 = 0.01;
    let mut cells = vec![0f32; GRID * GRID * TURNS];
    for y in 1..side - 1 {
        for x in 1..side - 1 {
            let at = y * side + x;
            let (dx, dy) = (grey[at + 1] - grey[at - 1], grey[at + side] - grey[at - side]);
            let strength = dx.hypot(dy);
            if strength == 0.0 {
                continue;
            }
            // A direction counts for the two turns that it lies between.
            let turn = dy.atan2(dx).rem_euclid(std::f32::consts::PI) / std::f32::consts::PI * TURNS as f32;
            let (low, part) = (turn as usize % TURNS, turn.fract());
            let cell = &mut cells[(y * GRID / side * GRID + x * GRID / side) * TURNS..][..TURNS];
            cell[low] += strength * (1.0 - part);
            cell[(low + 1) % TURNS] += strength * part;
        }
    }
    let pixels = (side * side) as f32 / (GRID * GRID) as f32;
    let energy: Vec<f32> =
        cells.chunks_exact(TURNS).map(|c| c.iter().map(|v| (v / pixels).powi(2)).sum()).collect();
    let mut out = Vec::with_capacity(cells.len());
    for y in 0..GRID {
        for x in 0..GRID {
            let around = (y.saturating_sub(1)..(y + 2).min(GRID))
                .flat_map(|y| (x.saturating_sub(1)..(x + 2).min(GRID)).map(move |x| y * GRID + x));
            let norm = pixels * (around.map(|c| energy[c]).sum::<f32>() + FAINT * FAINT).sqrt();
            out.extend(cells[(y * GRID + x) * TURNS..][..TURNS].iter().map(|v| v / norm));
        }
    }
    out
}

/// Which of the counted patterns a code of eight neighbours is.
const fn patterns() -> [u8; 256] {
    let mut of = [0u8; 256];
    let (mut code, mut next) = (0usize, 0u8);
    while code < 256 {
        let around = code as u8;
        if (around ^ around.rotate_left(1)).count_ones() <= 2 {
            of[code] = next;
            next += 1;
        } else {
            of[code] = PATTERNS as u8 - 1;
        }
        code += 1;
    }
    of
}

fn textures(grey: &[f32], side: usize) -> Vec<f32> {
    const OF: [u8; 256] = patterns();
    /// Below this two pixels are equally bright.
    const FAINT: f32 = 0.5 / 255.0;
    let mut counts = vec![0f32; 4 * PATTERNS];
    for y in 1..side - 1 {
        for x in 1..side - 1 {
            let at = y * side + x;
            // In a circle.
            let around = [
                at - side - 1,
                at - side,
                at - side + 1,
                at + 1,
                at + side + 1,
                at + side,
                at + side - 1,
                at - 1,
            ];
            let bit = |code: u8, &other: &usize| code << 1 | u8::from(grey[other] >= grey[at] - FAINT);
            let code = around.iter().fold(0u8, bit);
            let quarter = usize::from(2 * y >= side) * 2 + usize::from(2 * x >= side);
            counts[quarter * PATTERNS + usize::from(OF[code as usize])] += 1.0;
        }
    }
    counts.chunks_exact_mut(PATTERNS).for_each(shares);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EncoderConfig;
    use crate::encoder::tests::{check, item};
    use image::{ImageFormat, Rgb};
    use proptest::prelude::*;
    use serde_json::json;
    use sommelier_core::Rng;
    use sommelier_nn::kernel;

    /// A picture with stripes of a colour: wide or narrow, upright or lying, with a little noise.
    fn stripes(colour: [u8; 3], width: u32, upright: bool, seed: u64) -> RgbImage {
        let mut rng = Rng::new(seed);
        RgbImage::from_fn(48, 40, |x, y| {
            let dark = (if upright { x } else { y }) / width % 2 == 1;
            Rgb(colour.map(|c| (if dark { c / 3 } else { c }).saturating_add(rng.below(6) as u8)))
        })
    }

    fn file_of(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn uri(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = "data:image/png;base64,".to_owned();
        for three in bytes.chunks(3) {
            let held = (0..3).fold(0u32, |held, i| held << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
            for i in 0..4 {
                let letter = LETTERS[(held >> (18 - 6 * i) & 63) as usize] as char;
                text.push(if i <= three.len() { letter } else { '=' });
            }
        }
        text
    }

    fn gallery() -> Vec<Option<Item>> {
        let mut items: Vec<_> = (0..12u8)
            .map(|i| {
                let colour = if i < 6 { [230, 40, 40] } else { [40, 60, 220] };
                let picture = stripes(colour, 4 + 4 * u32::from(i % 3 == 0), i % 2 == 0, u64::from(i));
                item(&format!("p{i}"), json!({"image": uri(&file_of(&picture, ImageFormat::Png))}))
            })
            .collect();
        items.push(None);
        items.push(item("without", json!({"title": "no picture"})));
        for (i, wrong) in [
            json!("https://example.com/a.png"),
            json!("../secret.png"),
            json!("/etc/passwd"),
            json!(7),
            json!("data:image/png;base64,AAAA"),
            json!("data:text/plain,hi"),
            json!("data:,"),
            json!("no such file.png"),
        ]
        .into_iter()
        .enumerate()
        {
            items.push(item(&format!("wrong{i}"), json!({"image": wrong})));
        }
        items
    }

    fn config() -> ImagesConfig {
        ImagesConfig { dim: 6, side: 32, ..ImagesConfig::default() }
    }

    #[test]
    fn what_every_encoder_promises() {
        for unit in [true, false] {
            let config = ImagesConfig { unit, ..config() };
            let (encoder, vectors) = check(&EncoderConfig::Images(config), &gallery(), &BTreeMap::new());
            assert_eq!((vectors.present(), encoder.dim()), (12, 6));
            let told: Vec<_> =
                encoder.problems().iter().map(|p| (p.item.as_str(), p.reason.as_str())).collect();
            let expected = [
                ("wrong0", "nothing is fetched"),
                ("wrong1", "out of the folder"),
                ("wrong2", "out of the folder"),
                ("wrong3", "must be a path"),
                ("wrong4", "known format"),
                ("wrong5", "not in base64"),
                ("wrong6", "not in base64"),
                ("wrong7", "cannot be read"),
            ];
            assert_eq!(told.len(), expected.len());
            for ((item, reason), (of, what)) in told.iter().zip(expected) {
                assert!(*item == of && reason.contains(what), "{item}: {reason}");
            }
        }
    }

    #[test]
    fn what_looks_alike_is_near() {
        let (_, vectors) = config().fit(&gallery(), &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        let near = |i, j| kernel::dot(vectors.row(i).unwrap(), vectors.row(j).unwrap());
        // 1 and 5 are red and lying, 7 is blue and lying, 2 is red and upright, 8 blue and upright.
        assert!(near(1, 5) > 0.3 + near(1, 7), "by colour: {} {}", near(1, 5), near(1, 7));
        assert!(near(1, 5) > 0.3 + near(1, 2), "by direction: {} {}", near(1, 5), near(1, 2));
        assert!(near(1, 8) < near(1, 7) && near(1, 8) < near(1, 2));
    }

    #[test]
    fn every_format_is_read_from_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let formats =
            [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp];
        let mut items = Vec::new();
        for (i, format) in formats.into_iter().enumerate() {
            // The format is told by the bytes, not by the name.
            let picture = stripes([30 * i as u8 + 90, 200, 40], 5, i % 2 == 0, 1);
            std::fs::write(folder.path().join(format!("{i}.jpg")), file_of(&picture, format)).unwrap();
            items.push(item(&i.to_string(), json!({"image": format!("./{i}.jpg")})));
        }
        let whole = std::fs::read(folder.path().join("0.jpg")).unwrap();
        std::fs::write(folder.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
        items.push(item("cut", json!({"image": "cut.png"})));
        let config = ImagesConfig { folder: folder.path().into(), ..config() };
        let (encoder, vectors) = config.fit(&items, &BTreeMap::new(), &FitContext::quiet(1)).unwrap();
        assert_eq!(vectors.present(), 5);
        assert_eq!((encoder.problems().len(), encoder.problems()[0].item.as_str()), (1, "cut"));
        assert!(encoder.problems()[0].reason.contains("does not decode"));
    }

    #[test]
    fn numbers_are_those_of_the_definitions() {
        assert_eq!(hsv([255, 0, 0]), [0.0, 1.0, 1.0]);
        assert_eq!(hsv([0, 255, 0]), [2.0 / 6.0, 1.0, 1.0]);
        assert_eq!(hsv([0, 0, 51]), [4.0 / 6.0, 1.0, 0.2]);
        assert_eq!(hsv([128, 128, 128])[1], 0.0);
        let plain = colours(&RgbImage::from_pixel(8, 8, Rgb([0, 255, 0])));
        assert_eq!(plain[(2 * SHADES + 3) * SHADES + 3], 1.0);
        assert_eq!(plain.iter().sum::<f32>(), 1.0);
        // Brightness that grows to the right has edges of the first turn only, downwards of the middle ones.
        let right: Vec<f32> = (0..32 * 32).map(|i| (i % 32) as f32 / 32.0).collect();
        let down: Vec<f32> = (0..32 * 32).map(|i| (i / 32) as f32 / 32.0).collect();
        for (k, (r, d)) in edges(&right, 32).iter().zip(edges(&down, 32)).enumerate() {
            assert_eq!(*r > 0.0, k % TURNS == 0);
            assert_eq!(d > 0.0, [4, 5].contains(&(k % TURNS)));
        }
        // A flat picture has the pattern in which all neighbours are as bright; the last of the 58.
        let flat = textures(&[0.5; 16 * 16], 16);
        assert_eq!(flat.iter().filter(|v| **v > 0.0).count(), 4);
        assert_eq!(flat[57], 1.0);
        let counted = patterns().iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(counted, PATTERNS);
        for (code, of) in patterns().into_iter().enumerate() {
            let text = format!("{code:08b}");
            let ring: Vec<char> = text.chars().chain(text.chars().take(1)).collect();
            let changes = ring.windows(2).filter(|w| w[0] != w[1]).count();
            assert_eq!(changes > 2, usize::from(of) == PATTERNS - 1, "{text}");
        }
    }

    #[test]
    fn see_through_pictures_lie_on_white() {
        let mut picture = image::RgbaImage::from_pixel(2, 1, Rgba([0, 0, 0, 0]));
        picture.put_pixel(1, 0, Rgba([200, 0, 0, 255]));
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let found = decoded(&bytes.into_inner()).unwrap();
        assert_eq!((found.get_pixel(0, 0).0, found.get_pixel(1, 0).0), ([255; 3], [200, 0, 0]));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let told = |config: ImagesConfig, items: &[Option<Item>]| {
            config.fit(items, &BTreeMap::new(), &FitContext::quiet(1)).err().unwrap().to_string()
        };
        assert!(told(config(), &[]).contains("none of 0 items has a picture"));
        assert!(told(config(), &gallery()[14..]).contains("8 could not be read (first: wrong0"));
        assert!(told(config(), &gallery()[..1]).contains("all the same"), "one picture is like no other");
        assert!(told(ImagesConfig { side: 4, ..config() }, &gallery()).contains("from 16 to 1024"));
        assert!(told(ImagesConfig { dim: 0, ..config() }, &gallery()).contains("dim"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn base64_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = uri(&bytes);
            prop_assert_eq!(base64(text.split_once(',').unwrap().1), Some(bytes));
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..2000, flip: u8) {
            let _ = decoded(&bytes);
            bytes = file_of(&stripes([9, 90, 200], 3, true, 1), ImageFormat::Gif);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(picture) = decoded(&bytes) {
                let all = config().measured(&picture).concat();
                prop_assert!(all.iter().all(|v| v.is_finite()));
            }
        }
    }
}
