//! Bad input is data: every kind of damage gives the good rows and a list of what was wrong, or a clear error.
#![allow(clippy::format_collect)] // Test data reads best as one expression.

use sommelier_core::Time;
use sommelier_data::import::{
    ImportContext, ImportError, ImportOptions, ImportReport, TimeUnit, detect, load,
};
use sommelier_data::{KindRules, Snapshot, TimeQuality};
use std::io::Write;
use std::path::{Path, PathBuf};

struct Case {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(name: &str, bytes: impl AsRef<[u8]>) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    Case { _dir: dir, path }
}

fn now() -> Time {
    Time::parse("2026-01-01").unwrap()
}

fn read(path: &Path, options: &ImportOptions) -> Result<(Snapshot, ImportReport), ImportError> {
    load(path, options, &KindRules::new(), &ImportContext::quiet(now()))
}

fn plain(case: &Case) -> (Snapshot, ImportReport) {
    read(&case.path, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn error(case: &Case) -> ImportError {
    read(&case.path, &ImportOptions::default()).expect_err("must fail")
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

const GOOD: &str = "user,item,rating,timestamp\nu1,i1,5,1700000000\nu1,i2,3,1700000100\nu2,i1,4,1700000200\n";

#[test]
fn a_plain_csv() {
    let (s, r) = plain(&file("x.csv", GOOD));
    assert_eq!((s.users.len(), s.items.len(), r.events, r.problems_total), (2, 2, 3, 0));
    assert_eq!(s.kinds.as_slice(), ["rating"]);
    assert_eq!(s.times, TimeQuality::Clock);
    assert_eq!(s.events.at[0], 1_700_000_000_000);
    assert_eq!(s.events.value, [5.0, 3.0, 4.0]);
}

#[test]
fn empty_files() {
    for bytes in ["", "\n\n  \n"] {
        assert!(matches!(error(&file("x.csv", bytes)), ImportError::Empty { .. }));
    }
    let case = file("x.csv.gz", gz(b""));
    assert!(matches!(error(&case), ImportError::Empty { .. }));
    // A header alone is a table without rows.
    assert_eq!(plain(&file("x.csv", "user,item\n")).1.events, 0);
}

#[test]
fn missing_file_and_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    let missing = read(&dir.path().join("nothing"), &ImportOptions::default());
    assert!(matches!(missing, Err(ImportError::NotFound(_))));
    let empty = read(dir.path(), &ImportOptions::default());
    assert!(matches!(empty, Err(ImportError::NoEvents { .. })));
}

#[test]
fn binary_named_csv() {
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let e = error(&file("x.csv", bytes));
    assert!(matches!(e, ImportError::Binary { .. }), "{e}");
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(GOOD.bytes().flat_map(|b| [b, 0])).collect();
    assert!(error(&file("x.csv", utf16)).to_string().contains("UTF-16"));
}

#[test]
fn unknown_header_gives_a_ready_made_map() {
    let case = file("x.csv", "foo,bar baz,n\na,b,1\nc,d,2\n");
    let e = error(&case).to_string();
    assert!(e.contains("foo, bar baz, n"), "{e}");
    assert!(e.contains("--map user=foo,'item=bar baz'"), "{e}");
    let map = [("user", "foo"), ("item", "bar baz"), ("value", "n")];
    let map = map.into_iter().map(|(f, c)| (f.to_owned(), c.to_owned())).collect();
    let (s, _) = read(&case.path, &ImportOptions { map, ..Default::default() }).unwrap();
    assert_eq!((s.users.len(), s.items.len()), (2, 2));
    assert_eq!(s.events.value, [1.0, 2.0]);
}

#[test]
fn map_errors_name_fields_and_columns() {
    let case = file("x.csv", GOOD);
    for (field, column, words) in [("person", "user", "no field"), ("value", "stars", "the columns are")] {
        let map = [(field.to_owned(), column.to_owned())].into();
        let e = read(&case.path, &ImportOptions { map, ..Default::default() }).unwrap_err().to_string();
        assert!(e.contains(words), "{e}");
    }
}

#[test]
fn columns_by_number_without_a_header() {
    let case = file("x.tsv", "3\tu1\ti1\textra\tz\n4\tu2\ti2\textra\tz\n");
    let e = error(&case).to_string();
    assert!(e.contains("as in `u1`"), "{e}");
    let map = [("user", "2"), ("item", "3"), ("value", "1")];
    let map = map.into_iter().map(|(f, c)| (f.to_owned(), c.to_owned())).collect();
    let (s, _) = read(&case.path, &ImportOptions { map, ..Default::default() }).unwrap();
    assert_eq!(s.users.id(0), "u1");
    assert_eq!(s.events.value, [3.0, 4.0]);
}

#[test]
fn a_line_of_ten_megabytes() {
    let long = format!("{GOOD}u3,{},1,1700000300\nu4,i4,1,1700000400\n", "x".repeat(10 << 20));
    let (s, r) = plain(&file("x.csv", &long));
    assert_eq!((r.events, r.problems_total, r.skipped), (4, 1, 1));
    assert_eq!(r.problems[0].line, 5);
    assert!(s.users.get("u4").is_some());
    let json = format!("{{\"user\":\"a\",\"item\":\"b\"}}\n{{\"user\":\"{}\"}}\n", "x".repeat(10 << 20));
    let (_, r) = plain(&file("x.jsonl", json));
    assert_eq!((r.events, r.problems_total), (1, 1));
}

#[test]
fn ids_that_are_too_long_or_missing() {
    let rows = format!("{GOOD}{},i1,1,1700000000\n,i1,1,1700000000\nu1, ,1,1700000000\n", "u".repeat(513));
    let (_, r) = plain(&file("x.csv", rows));
    assert_eq!((r.events, r.skipped), (3, 3));
    assert_eq!(r.problems[0].field.as_deref(), Some("user"));
    assert_eq!(r.problems[2].field.as_deref(), Some("item"));
}

#[test]
fn invalid_utf8() {
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes.extend_from_slice(b"u\xff,i1,1,1700000000\nu9,i9,2,1700000000\n");
    let (s, r) = plain(&file("x.csv", bytes));
    assert_eq!((r.events, r.problems_total), (4, 1));
    assert_eq!(r.problems[0].line, 5);
    assert!(s.users.get("u9").is_some());
}

#[test]
fn nan_and_infinity() {
    let rows = format!(
        "{GOOD}u1,i3,NaN,1700000000\nu1,i4,inf,1700000000\nu1,i5,1e999,1700000000\nu1,i6,,1700000000\n"
    );
    let (_, r) = plain(&file("x.csv", rows));
    assert_eq!((r.events, r.skipped), (4, 3));
    assert!(r.problems.iter().all(|p| p.field.as_deref() == Some("rating") && p.reason.contains("finite")));
    let json = "{\"user\":\"a\",\"item\":\"b\",\"value\":1}\n{\"user\":\"a\",\"item\":\"b\",\"value\":NaN}\n{\"user\":\"a\",\"item\":\"b\",\"value\":1e999}\n";
    let (_, r) = plain(&file("x.jsonl", json));
    assert_eq!((r.events, r.skipped), (1, 2));
}

#[test]
fn mixed_times() {
    let rows = format!(
        "{GOOD}u3,i1,1,1700000000000\nu3,i2,1,2023-11-14T22:13:20Z\nu3,i3,1,soon\nu3,i4,1,-1\nu3,i5,1,0\nu3,i6,1,\n"
    );
    let case = file("x.csv", rows);
    let plan = detect(&case.path, &ImportOptions::default()).unwrap();
    assert!(plan.to_string().contains(TimeUnit::Seconds.words()));
    let (s, r) = plain(&case);
    assert_eq!((r.events, r.skipped, r.without_time), (4, 5, 1));
    assert!(r.problems[0].reason.contains("looks like milliseconds"), "{}", r.problems[0]);
    assert!(r.problems.iter().all(|p| p.field.as_deref() == Some("timestamp")));
    assert_eq!(*s.events.at.iter().max().unwrap(), now().millis(), "no time means now");
}

#[test]
fn times_in_other_units() {
    for (text, millis) in [
        ("1700000000123", 1_700_000_000_123),
        ("1700000000123456", 1_700_000_000_123),
        ("2023-11-14 22:13:20", 1_700_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
        ("1700000000.5", 1_700_000_000_500),
    ] {
        let (s, _) = plain(&file("x.csv", format!("user_id,product_id,time\na,b,{text}\n")));
        assert_eq!(s.events.at, [millis], "{text}");
        let (s, _) = plain(&file("x.jsonl", format!("{{\"userId\":1,\"movieId\":2,\"date\":\"{text}\"}}\n")));
        assert_eq!(s.events.at, [millis], "{text}");
        assert_eq!((s.users.id(0), s.items.id(0)), ("1", "2"));
    }
}

#[test]
fn duplicate_event_ids() {
    let (s, r) = plain(&file("x.csv", "id,user,item\ne1,a,x\ne2,a,y\ne1,a,z\n,a,x\n,a,x\n"));
    assert_eq!((r.events, r.duplicates), (4, 1));
    assert!(s.items.get("z").is_none());
}

#[test]
fn truncated_gzip() {
    let rows: String =
        (0..100_000u64).map(|i| format!("u{},i{},{}\n", i % 997, i * 7919 % 5003, i % 5 + 1)).collect();
    let whole = gz(format!("user,item,rating\n{rows}").as_bytes());
    let (_, r) = plain(&file("x.csv.gz", &whole));
    assert_eq!((r.events, r.problems_total), (100_000, 0));
    let (_, r) = plain(&file("x.csv.gz", &whole[..whole.len() / 2]));
    assert!(r.events > 10_000 && r.events < 90_000, "{}", r.events);
    assert_eq!(r.problems_total, 1);
    assert!(r.problems[0].reason.contains("breaks off") && r.problems[0].line > 10_000);
    let mut damaged = whole.clone();
    for byte in &mut damaged[whole.len() / 2..whole.len() / 2 + 50] {
        *byte ^= 0x5a;
    }
    // Damaged deflate data may decode to rubbish for a while before the decoder notices.
    let (_, r) = plain(&file("x.csv.gz", damaged));
    assert!(r.problems_total >= 1);
}

#[test]
fn zstd_and_zip() {
    let packed = zstd::encode_all(GOOD.as_bytes(), 3).unwrap();
    assert_eq!(plain(&file("x.csv.zst", &packed)).1.events, 3);
    assert!(matches!(error(&file("x.csv.zst", &packed[..packed.len() - 8])), ImportError::Unreadable { .. }));
    let rows: String = (0..200_000).map(|i| format!("u{i},i{}\n", i * 7919 % 5003)).collect();
    let packed = zstd::encode_all(format!("user,item\n{rows}").as_bytes(), 3).unwrap();
    let (_, r) = plain(&file("x.csv.zst", &packed[..packed.len() - 8]));
    assert!(r.events > 1000 && r.problems_total == 1, "{r}");

    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in [
        (
            "ml-latest-small/ratings.csv",
            "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n",
        ),
        (
            "ml-latest-small/movies.csv",
            "movieId,title,genres\n31,Dangerous Minds (1995),Drama\n1029,\"Cry, the Beloved \"\"X\"\" (1941)\",Animation|Drama\n",
        ),
        ("ml-latest-small/links.csv", "movieId,imdbId,tmdbId\n31,0112792,9909\n"),
        ("ml-latest-small/README.txt", "Summary of the data. It holds ratings by users, of items.\n"),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    let case = file("ml-latest-small.zip", zip.finish().unwrap().into_inner());
    let (s, r) = plain(&case);
    assert_eq!((r.events, r.items), (2, 2));
    let info = s.item_info[s.items.get("1029").unwrap() as usize].as_ref().unwrap();
    assert_eq!(info.title(), Some("Cry, the Beloved \"X\""));
    assert_eq!(info.properties["year"], 1941);
    assert_eq!(info.properties["genres"][1], "Drama");
    assert_eq!(s.name, "ml-latest-small");
    assert!(matches!(error(&file("broken.zip", b"PK\x03\x04 not really a zip")), ImportError::Io { .. }));
}

#[test]
fn json_ten_thousand_deep() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let rows = format!(
        "{{\"user\":\"a\",\"item\":\"b\"}}\n{{\"user\":\"a\",\"item\":\"c\",\"context\":{deep}}}\n{}\n{{\"user\":\"a\",\"item\":\"d\",\"other\":{deep}}}\n",
        "{\"user\":".repeat(10_000)
    );
    let (_, r) = plain(&file("x.jsonl", rows));
    assert_eq!(r.events + r.skipped, 4);
    assert!(r.skipped >= 2, "{r}");
    let gorse = format!("{{\"UserId\":\"a\"}}\n{{\"UserId\":\"b\",\"Labels\":{deep}}}\n");
    let (_, r) = plain(&file("users.jsonl", gorse));
    assert_eq!((r.users, r.skipped), (1, 1));
    let array = error(&file("x.json", format!("[{deep}"))).to_string();
    assert!(array.contains("one object a line"), "{array}");
}

#[test]
fn rows_that_lack_columns() {
    let (_, r) =
        plain(&file("x.csv", format!("{GOOD}u3\nu3,i3\nu3,i3,4,1700000000,9\nu3,i3,4,1700000000,\n")));
    assert_eq!((r.events, r.skipped), (4, 3));
    assert!(r.problems[0].reason.contains("expected 4 fields like the header, received 1"));
    let (_, r) = plain(&file(
        "x.jsonl",
        "{\"user\":\"a\",\"item\":\"b\"}\n{\"user\":\"a\"}\n{\"item\":\"b\"}\n[1]\n7\nnull\n",
    ));
    assert_eq!((r.events, r.skipped), (1, 5));
}

#[test]
fn bom_crlf_and_quotes() {
    let text = "\u{feff}user;item;text;rating\r\n\"a;1\";\"x\r\ny\";\"said \"\"no\"\"\";3\r\nb;z;5\" screen;4\r\n\r\n";
    let (s, r) = plain(&file("x.csv", text));
    assert_eq!((r.events, r.problems_total), (2, 0), "{r}");
    assert_eq!(s.users.iter().collect::<Vec<_>>(), ["a;1", "b"]);
    assert_eq!(s.items.id(0), "x\r\ny");
    let (_, r) = plain(&file("x.csv", format!("{GOOD}\"never closed,i,1,1700000000\nu7,i7,1,1700000000\n")));
    assert_eq!((r.events, r.skipped), (4, 1));
    assert_eq!(r.problems[0].line, 5);
}

#[test]
fn strict_fails_on_the_first_problem() {
    let options = ImportOptions { strict: true, ..Default::default() };
    assert!(read(&file("x.csv", GOOD).path, &options).is_ok());
    let bad = file("x.csv", format!("{GOOD}u1,i1,NaN,1\nu1\n"));
    match read(&bad.path, &options) {
        Err(ImportError::Strict { total, first }) => assert_eq!((total, first.line), (2, 5)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn problems_are_counted_past_what_is_kept() {
    let rows: String = (0..1000).map(|_| "u1\n").collect();
    let options = ImportOptions { max_problems: 7, ..Default::default() };
    let (_, r) = read(&file("x.csv", format!("{GOOD}{rows}")).path, &options).unwrap();
    assert_eq!((r.problems.len(), r.problems_total), (7, 1000));
    assert!(r.to_string().contains("and 993 more"));
}

#[test]
fn cancelled() {
    let ctx = ImportContext::quiet(now());
    ctx.cancel.cancel();
    let case = file("x.csv", GOOD);
    let out = load(&case.path, &ImportOptions::default(), &KindRules::new(), &ctx);
    assert!(matches!(out, Err(ImportError::Cancelled)));
}

#[test]
fn damaged_parquet_is_an_error() {
    for bytes in [&b"PAR1"[..], b"PAR1PAR1", b"PAR1\0\0\0\0aaaaaaaaaaaa\xff\xff\xff\x7fPAR1"] {
        assert!(matches!(error(&file("x.parquet", bytes)), ImportError::Unreadable { .. }));
    }
}

#[test]
fn positive_and_its_errors() {
    let case = file("x.csv", GOOD);
    let read_positive =
        |text: &str| read(&case.path, &ImportOptions { positive: Some(text.into()), ..Default::default() });
    let (s, _) = read_positive("rating>=4").unwrap();
    assert_eq!(s.events.weight, [1.0, 0.0, 1.0]);
    for bad in ["rating", "stars>=4", "rating>=four"] {
        assert!(matches!(read_positive(bad), Err(ImportError::Option(_))), "{bad}");
    }
    let no_values = file("y.csv", "user,item\na,b\n");
    let options = ImportOptions { positive: Some("rating>=4".into()), ..Default::default() };
    assert!(matches!(read(&no_values.path, &options), Err(ImportError::Option(_))));
}

#[test]
fn gorse_recbole_sequences_and_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "feedback.jsonl",
        "{\"FeedbackType\":\"click\",\"UserId\":\"u1\",\"ItemId\":\"i1\",\"Value\":2.0,\"Timestamp\":\"2024-01-01T00:00:00Z\",\"Labels\":null,\"Comment\":\"\"}\n",
    );
    write(
        "items.jsonl",
        "{\"ItemId\":\"i1\",\"IsHidden\":true,\"Categories\":[\"book\"],\"Timestamp\":\"2022-02-24\",\"Labels\":{\"tags\":[\"a\"]},\"Comment\":\"A title\"}\n",
    );
    write("users.jsonl", "{\"UserId\":\"u1\",\"Labels\":{\"country\":\"FR\"},\"Comment\":\"\"}\n");
    let (s, r) = read(dir.path(), &ImportOptions::default()).unwrap();
    assert_eq!((r.events, r.items, r.users), (1, 1, 1));
    let item = s.item_info[0].as_ref().unwrap();
    assert!(item.hidden && item.title() == Some("A title") && item.properties["categories"][0] == "book");
    assert_eq!(s.user_info[0].as_ref().unwrap().properties["country"], "FR");

    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n";
    write("d.train.inter", &format!("{head}1\t10\t5\t978300760\n1\t11\t5\t978300761\n"));
    write("d.valid.inter", &format!("{head}1\t12\t5\t978300762\n"));
    write("d.test.inter", &format!("{head}1\t13\t5\t978300763\n"));
    write(
        "d.item",
        "item_id:token\ttitle:token\tgenre:token_seq\tvector:float_seq\n10\t\"Q\" and A\tdrama war\t0.5 1\n",
    );
    let (s, r) = read(dir.path(), &ImportOptions::default()).unwrap();
    assert_eq!((r.events, r.items, r.problems_total), (4, 1, 0), "{r}");
    let given = s.given.as_ref().unwrap();
    assert_eq!((given.train.len(), given.valid.len(), given.test.len()), (2, 1, 1));
    let item = s.item_info[0].as_ref().unwrap();
    assert_eq!(item.title(), Some("\"Q\" and A"));
    assert_eq!(
        (item.properties["genre"][1].as_str(), item.properties["vector"][1].as_f64()),
        (Some("war"), Some(1.0))
    );

    let (s, _) = plain(&file("s.txt", "u1 i3 i1 i2\nu2 i2\n"));
    assert_eq!((s.times, s.events.len()), (TimeQuality::Order, 4));
    assert_eq!(s.items.id(s.events.item[0]), "i3");
}

#[test]
fn a_format_asked_for_leaves_tables_beside_lists_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("history.txt"), "u1 i3 i1 i2\nu2 i2\n").unwrap();
    std::fs::write(dir.path().join("items.tsv"), "item_id\ttitle\ni1\tOne\n").unwrap();
    let options = ImportOptions { format: Some("sequences".parse().unwrap()), ..Default::default() };
    let (s, r) = read(dir.path(), &options).unwrap();
    assert_eq!((r.events, r.items, s.times), (4, 1, TimeQuality::Order));
    // Names without digits are no ids to the detective; asking for the format reads them all the same.
    let (_, r) = read(&file("x.txt", "ann tea milk\nbob tea\n").path, &options).unwrap();
    assert_eq!(r.events, 3);
}

#[test]
fn a_list_beside_its_sequences_holds_candidates() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("X.txt"), "1 10 11 12\n2 11 13 14 15\n").unwrap();
    std::fs::write(dir.path().join("X_sample.txt"), "1 13 14 15\n2 10 16 12\n3\n").unwrap();
    let (s, r) = read(dir.path(), &ImportOptions::default()).unwrap();
    assert_eq!((r.events, r.skipped, s.items.len()), (7, 1, 7));
    assert!(r.problems[0].reason.contains("a user and candidates"), "{:?}", r.problems);
    let names = |list: &[u32]| list.iter().map(|&i| s.items.id(i).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&s.candidates[&s.users.get("2").unwrap()]), ["10", "16", "12"]);
    // Alone it is what it says.
    std::fs::remove_file(dir.path().join("X.txt")).unwrap();
    assert_eq!(read(dir.path(), &ImportOptions::default()).unwrap().1.events, 6);
}

#[test]
fn a_folder_with_two_candidates_for_the_events_asks() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.csv"), "user,item\na,b\n").unwrap();
    std::fs::write(dir.path().join("b.csv"), "user,item,rating\na,b,1\n").unwrap();
    let out = read(dir.path(), &ImportOptions::default());
    assert!(matches!(out, Err(ImportError::Ambiguous { .. })));
    // Parts of one table are read together.
    std::fs::write(dir.path().join("b.csv"), "user,item\na,c\n").unwrap();
    assert_eq!(read(dir.path(), &ImportOptions::default()).unwrap().1.events, 2);
}
