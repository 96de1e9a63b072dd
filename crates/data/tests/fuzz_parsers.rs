//! Mutated files of every format: whatever they hold, import ends with rows and problems or with an error, never a
//! panic. Seeded, so that a failure comes again; `FUZZ_ROUNDS` makes it run longer. The coverage-guided targets are
//! in `fuzz/`.

use sommelier_core::{Event, Item, Query, Time, User};
use sommelier_data::KindRules;
use sommelier_data::import::{ImportContext, ImportOptions, load};
use std::io::Write;
use std::path::Path;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

const WORDS: [&[u8]; 28] = [
    b"\"",
    b"\"\"",
    b",",
    b"\t",
    b"::",
    b"|",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"}",
    b"[[[[",
    b"]",
    b":",
    b"NaN",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"null",
    b"user",
    b"item_id:token",
    b"2026-01-31",
    b"\\u0000",
    b"\\ud800",
    b" ",
    b"UserId",
];

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(7) {
            0 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] ^= 1 << random.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = at.min(bytes.len() - 1);
                bytes[at] = random.next() as u8;
            }
            2 => {
                let end = (at + random.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let from = random.below(bytes.len() + 1);
                let copy = bytes[from..(from + random.below(60)).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            4 if random.below(8) == 0 => bytes.truncate(at),
            5 if random.below(40) == 0 => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.repeat(20_000));
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }
    bytes
}

fn rounds(usual: usize) -> usize {
    std::env::var("FUZZ_ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(usual)
}

/// What must hold for whatever came out.
fn check(path: &Path, options: &ImportOptions) {
    let ctx = ImportContext::quiet(Time::parse("2026-01-01").unwrap());
    match load(path, options, &KindRules::new(), &ctx) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok((s, report)) => {
            assert_eq!(s.events.len() as u64, report.events);
            assert_eq!(s.events.ptr.len(), s.users.len() + 1);
            assert_eq!((s.item_info.len(), s.user_info.len()), (s.items.len(), s.users.len()));
            assert!(report.problems.len() as u64 <= report.problems_total);
            assert!(report.problems.len() <= 100 && report.skipped <= report.problems_total);
            assert!(s.users.iter().chain(s.items.iter()).all(|id| !id.is_empty() && id.len() <= 512));
            assert!(s.events.value.iter().all(|v| !v.is_nan()));
        }
    }
}

fn fuzz(name: &str, seeds: &[&[u8]], usual: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    let mut random = Random(0x5eed ^ name.len() as u64);
    for round in 0..rounds(usual) {
        let seed = seeds[random.below(seeds.len())];
        std::fs::write(
            &path,
            if round < seeds.len() { seeds[round].to_vec() } else { mutate(seed, &mut random) },
        )
        .unwrap();
        check(&path, &ImportOptions::default());
    }
}

const CSV: &[u8] = b"user,item,rating,timestamp,id,context\n\"a\"\"b\",\"x\ny\",5,1700000000,e1,\"{\"\"k\"\":1}\"\nb,y,4.5,1700000001,e2,\nc,z,,1700000002,,\n";
const ITEMS: &[u8] =
    b"item_id,title,genres,hidden,expires\n1,\"T, \"\"q\"\"\",a|b,true,2026-01-01\n2,U,b|c,0,\n";

#[test]
fn csv_and_tsv() {
    fuzz("x.csv", &[CSV, ITEMS], 700);
    let tabs: Vec<u8> = CSV.iter().map(|&b| if b == b',' { b'\t' } else { b }).collect();
    fuzz("x.tsv", &[&tabs, b"1\t2\t3\t881250949\n2\t3\t4\t881250950\n"], 700);
}

#[test]
fn json_lines() {
    let events = br#"{"id":"e","user":"a","item":"b","kind":"buy","at":"2026-01-31T10:00:00Z","value":1.5,"slate":"s","position":3,"session":"x","context":{"a":[1,{"b":null}]},"text":"\u00e9\n"}
{"user":1,"item":2.0,"at":1700000000000}
"#;
    fuzz("events.jsonl", &[events], 900);
    fuzz(
        "items.jsonl",
        &[br#"{"id":"a","hidden":true,"expires":"2026-01-01","properties":{"title":"x","l":[1]}}"#],
        700,
    );
}

#[test]
fn gorse() {
    let lines = br#"{"FeedbackType":"click","UserId":"u1","ItemId":"i1","Value":1.0,"Timestamp":"2024-01-01T00:00:00Z","Labels":null,"Comment":""}
{"ItemId":"i1","IsHidden":false,"Categories":["book"],"Timestamp":"2024-01-01T00:00:00Z","Labels":{"tags":["a"],"e":[0.1]},"Comment":"t"}
{"UserId":"u1","Labels":{"country":"FR"},"Comment":""}
"#;
    fuzz("all.jsonl", &[lines], 900);
}

#[test]
fn recbole() {
    let inter = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t1193\t5\t978300760\n2\t3\t4.5\t978300761.5\n";
    let item = b"item_id:token\ttitle:token_seq\tv:float_seq\n1193\tA b\t0.5 1\n";
    fuzz("x.inter", &[inter], 700);
    fuzz("x.item", &[item], 700);
}

#[test]
fn movielens() {
    fuzz("u.data", &[b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n"], 500);
    fuzz(
        "u.item",
        &["1|Ca\u{e9} (1995)|01-Jan-1995||http://x|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0\n".as_bytes()],
        500,
    );
    fuzz("ratings.dat", &[b"1::1193::5::978300760\n1::661::3::978302109\n"], 500);
    fuzz("movies.dat", &[b"1::Toy Story (1995)::Animation|Children's|Comedy\n"], 500);
    fuzz("movies.csv", &[b"movieId,title,genres\n1,\"A, B (1995)\",X|Y\n"], 500);
}

#[test]
fn lists() {
    fuzz("sequences.txt", &[b"u1 i3 i1 i2\nu2 i2 i1\n", b"1 2 3\n"], 700);
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(7);
    for _ in 0..rounds(800) {
        std::fs::write(dir.path().join("train.txt"), mutate(b"0 1 2 3\n1 3 4\n", &mut random)).unwrap();
        let candidates = (0..30).map(|i| i.to_string()).collect::<Vec<_>>().join("\t");
        let test = if random.below(2) == 0 { b"0 4\n1 1\n".to_vec() } else { candidates.into_bytes() };
        std::fs::write(dir.path().join("test.txt"), mutate(&test, &mut random)).unwrap();
        check(dir.path(), &ImportOptions::default());
    }
}

#[test]
fn compressed_and_archives() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&CSV.repeat(3)).unwrap();
    fuzz("x.csv.gz", &[&gz.finish().unwrap()], 500);
    fuzz("x.csv.zst", &[&zstd::encode_all(CSV, 1).unwrap()], 500);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("ml/ratings.csv", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n").unwrap();
    fuzz("x.zip", &[&zip.finish().unwrap().into_inner()], 500);
    let mut tar = vec![0u8; 1536];
    tar[..9].copy_from_slice(b"p/10.jpeg");
    tar[124..135].copy_from_slice(b"00000000012");
    tar[156] = b'0';
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("events.csv"), CSV).unwrap();
    let mut random = Random(9);
    for _ in 0..rounds(500) {
        std::fs::write(dir.path().join("posters.tar"), mutate(&tar, &mut random)).unwrap();
        check(dir.path(), &ImportOptions::default());
    }
}

#[test]
fn parquet() {
    use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray};
    use std::sync::Arc;
    let user: ArrayRef = Arc::new(StringArray::from_iter_values((0..50).map(|i| format!("u{}", i % 7))));
    let item: ArrayRef = Arc::new(StringArray::from_iter_values((0..50).map(|i| format!("i{i}"))));
    let at: ArrayRef =
        Arc::new(TimestampMillisecondArray::from_iter_values((0..50).map(|i| 1_700_000_000_000 + i)));
    let value: ArrayRef =
        Arc::new((0..50).map(|i| (i % 3 > 0).then_some(f64::from(i))).collect::<Float64Array>());
    let rows =
        RecordBatch::try_from_iter([("user", user), ("item", item), ("at", at), ("value", value)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    // Its reader panics on some damage; import turns that into an error. The messages are noise here.
    std::panic::set_hook(Box::new(|_| {}));
    fuzz("x.parquet", &[&bytes], 700);
    let _ = std::panic::take_hook();
}

#[test]
fn words_of_the_api() {
    let seeds: [&[u8]; 4] = [
        br#"{"id":"e","user":"u1","item":"i9","kind":"view","at":1700000000000,"value":1.0,"slate":"s","position":3,"context":{}}"#,
        br#"{"user":"u1","history":["i9",{"item":"i4","kind":"buy","at":"2026-01-31T10:00:00Z"}],"wish":"x","filter":"item.year < 1950","count":10}"#,
        br#"{"id":"x","hidden":true,"expires":"2026-01-31","properties":{"title":"t"}}"#,
        b"2026-01-31T10:00:00+01:00",
    ];
    let mut random = Random(11);
    for _ in 0..rounds(30_000) {
        let bytes = mutate(seeds[random.below(seeds.len())], &mut random);
        let _ = serde_json::from_slice::<Event>(&bytes).map(|e| e.check());
        let _ = serde_json::from_slice::<Query>(&bytes);
        let _ = serde_json::from_slice::<Item>(&bytes);
        let _ = serde_json::from_slice::<User>(&bytes);
        if let Ok(time) = Time::parse(&String::from_utf8_lossy(&bytes)) {
            assert_eq!(Time::parse(&time.to_iso()), Ok(time));
        }
    }
}
