//! Input for the fuzz targets, which are tests whose names begin with `fuzz`: a bounded run of each is part of `make test`,
//! and `make fuzz` runs them for longer (`PROPTEST_CASES` cases each).

use proptest::prelude::*;
use serde_json::{Map, Value};

/// A text that has led to faults in other programs, or any text.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        " ",
        ".",
        "..",
        "../../x",
        "a/b",
        "a\u{0}b",
        "a\nb",
        "\r\n",
        "\u{202e}",
        "ä",
        "\u{1f980}",
        "true",
        "null",
        "0",
        "-1",
        "1e-400",
        "1e400",
        "9999999Ei",
        "0.1m",
        "1m",
        "16Mi",
        "1Pi",
        "NaN",
        "inf",
        "$(A)",
        "$$",
        "{{.}}",
        "%00",
        "%s",
        "' OR 1=1",
        "crofter-key-ci",
        "CROFTER_JOB",
        "crofter.io/paused",
        "a=b,c=d",
        "1h",
        "0s",
        "-1h",
        "2030-01-01T00:00:00Z",
        "2030-13-41T99:99:99Z",
        "0000-00-00",
        "-9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "Bearer ",
        "crft_",
        "crft_AAAAAAAAAAAAAAAAAAAAAAAA",
        "free",
        "Always",
        "live",
    ];
    prop_oneof![
        4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => "[ -~]{0,64}",
        1 => (0_usize..5000, any::<char>()).prop_map(|(count, c)| c.to_string().repeat(count)),
    ]
}

/// A value of JSON, with numbers at the ends of their types.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let numbers = [i64::MIN, -1, 0, 1, 5, 100, 65_532, i64::from(i32::MAX), i64::MAX];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(numbers.to_vec()).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(text(), inner, 0..6)
                .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// An object of which some of the fields are as given, and a few are anything.
pub(crate) fn like(template: Value) -> impl Strategy<Value = Value> {
    let fields: Map<String, Value> = match template {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let names: Vec<String> = fields.keys().cloned().collect();
    let some = prop::sample::subsequence(names.clone(), 0..=names.len());
    let others = prop::collection::vec((prop::sample::select(names), json()), 0..3);
    (some, others).prop_map(move |(some, others)| {
        let mut object: Map<String, Value> = some
            .into_iter()
            .filter_map(|name| fields.get(&name).map(|value| (name.clone(), value.clone())))
            .collect();
        object.extend(others);
        Value::from(object)
    })
}

/// Runs a case that waits, with a clock of its own: of one that would wait for ever a day is over at once.
pub(crate) fn run<T>(case: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(std::time::Duration::from_hours(24), case).await })
        .unwrap()
}
