//! How a page is read, and what it says compared with what is printed.

use serde_json::json;

use crate::page::{self, Action, Commands, Prints, Step};

fn run(text: &str, prints: Option<Prints>) -> Action {
    Action::Run(Commands { text: text.to_owned(), prints, ..Commands::default() })
}

#[test]
fn a_page_is_read_in_order_with_what_its_comments_say() {
    let page = "1. One\n\n   ```sh\n   export A=1\n   cat <<X\n     in\n   X\n   ```\n\n   ```text\n   out …\n   ```\n\
        ```yaml\napiVersion: v1\n```\n\n<!-- exits: 5 -->\n<!-- repeated -->\n\n```sh\nfails\n```\n```json\n{\"a\": 1}\n```\n\
        <!-- not run: needs a cloud -->\n\n```sh\ncloud\n```\n<!-- part of: Tenant -->\n\n```yaml\nspec: {}\n```\n\
        <!-- file: a.csv -->\n\n```csv\n1\n```\n<!-- run by tests/x.rs -->\n\n```sh\nother\n```\n```text\nits\n```\n";
    let failing = Commands {
        text: "fails\n".to_owned(),
        prints: Some(Prints::Json(json!({"a": 1}))),
        exits: 5,
        repeated: true,
    };
    let expected = [
        (3, run("export A=1\ncat <<X\n  in\nX\n", Some(Prints::Text("out …\n".to_owned())))),
        (13, Action::Apply("apiVersion: v1\n".to_owned())),
        (20, Action::Run(failing)),
        (33, Action::Check { part_of: "Tenant".to_owned(), text: "spec: {}\n".to_owned() }),
        (38, Action::Write { name: "a.csv".to_owned(), text: "1\n".to_owned() }),
    ];
    let expected = expected.map(|(line, action)| Step { line, action });
    assert_eq!(page::steps(page, None).unwrap(), expected);
    assert_eq!(page::other_tests(page), ["tests/x.rs"]);
    let other = page::steps(page, Some("tests/x.rs")).unwrap();
    assert_eq!(other, [Step { line: 43, action: run("other\n", Some(Prints::Text("its\n".to_owned()))) }]);
    // A block that no rule covers is an error, and so is a declaration without a reason.
    for page in [
        "```text\nout\n```\n",
        "```yaml\nspec: {}\n```\n",
        "```console\n$ a\n```\n",
        "```\na\n```\n",
        "<!-- not run: -->\n\n```rust\n```\n",
        "<!-- not run: needs a cloud -->\n\nText.\n\n```rust\n```\n",
        "```sh\na\n```\n```text\na\n```\n```text\nb\n```\n",
        "<!-- repeated -->\n\n```sh\na\n```\n",
    ] {
        page::steps(page, None).unwrap_err();
    }
}

#[test]
fn what_is_printed_is_compared_line_by_line_or_as_a_value() {
    // Lines that match, and lines that don't.
    for (expected, printed) in [
        ("a  b\n", "a b\n"),
        ("a …\n", "a b c\n"),
        ("a … c\n", "a b c\n"),
        ("…\nz\n", "a\nb\nz\n"),
        ("…\nz\n…\n", "z\n"),
        ("n …s\n", "n 5 s 7s\n"),
    ] {
        Prints::Text(expected.to_owned()).compare(printed).unwrap();
    }
    for (expected, printed) in [
        ("a\n", "b\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("a … c\n", "a b d\n"),
        ("a\n", "a b\n"),
        ("…\nz\n", "z\ny\n"),
    ] {
        Prints::Text(expected.to_owned()).compare(printed).unwrap_err();
    }
    // Of a value the page may show a part.
    let json = Prints::Json(json!({"jobs": [{"id": "…", "name": "a…"}], "next": null}));
    json.compare(r#"{"jobs": [{"id": 5, "name": "ab", "more": 1}], "next": null}"#).unwrap();
    for printed in [
        r#"{"jobs": [], "next": null}"#,
        r#"{"jobs": [{"id": 5, "name": "b"}], "next": null}"#,
        "no JSON",
        "{}",
    ] {
        json.compare(printed).unwrap_err();
    }
}
