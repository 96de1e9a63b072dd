//! Our half of `bench/generate`'s comparison with faiss: residual k-means, 3 × 256 with a beam of 5, of the vectors in a file of little-endian
//! `f32`, then codes of all of them. `quantise FILE DIM` prints one JSON line.

use sommelier_core::FitContext;
use sommelier_encode::Rows;
use sommelier_encode::tokenise::{ResidualConfig, Tokeniser};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(dim)) = (args.next(), args.next()) else {
        return Err("usage: quantise FILE DIM".into());
    };
    let dim: usize = dim.parse()?;
    let bytes = std::fs::read(file)?;
    let x: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    drop(bytes);
    let x = Rows::new(&x, dim);
    let ctx = FitContext { memory: 16 << 30, ..FitContext::quiet(1) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let start = Instant::now();
    let fitted = pool.install(|| ResidualConfig::default().fit(x, &ctx))?;
    let fit = start.elapsed().as_secs_f64();
    let codes = pool.install(|| fitted.encode(x));
    let all = start.elapsed().as_secs_f64();
    let mut mean = vec![0f64; dim];
    x.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v)));
    mean.iter_mut().for_each(|m| *m /= x.len() as f64);
    let (mut lost, mut total) = (0f64, 0f64);
    for (row, codes) in x.iter().zip(codes.chunks_exact(3)) {
        for ((&v, n), m) in row.iter().zip(fitted.decode(codes)).zip(&mean) {
            lost += f64::from(v - n).powi(2);
            total += (f64::from(v) - m).powi(2);
        }
    }
    println!(
        "{}",
        serde_json::json!({ "fit_s": fit, "encode_s": all - fit, "all_s": all, "lost": lost / total })
    );
    Ok(())
}
