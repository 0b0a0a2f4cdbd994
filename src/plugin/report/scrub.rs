//! Replaces what looks like a credential in free text.

use serde_json::Value;

/// What a credential is replaced by.
const HIDDEN: &str = "(hidden)";
/// Longest text that is kept; a message is far shorter.
const MAX_TEXT: usize = 64 << 10;

/// A value whose texts have what looks like a credential replaced.
pub fn scrubbed(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(scrub(&text)),
        Value::Array(all) => all.into_iter().map(scrubbed).collect(),
        Value::Object(all) => all.into_iter().map(|(name, value)| (name, scrubbed(value))).collect(),
        other => other,
    }
}

/// Words after which a credential follows, with `=`, `:` or a space between.
const LABELS: [&str; 9] =
    ["password", "passwd", "secret", "token", "apikey", "api_key", "api-key", "bearer", "authorization"];

/// A text with what looks like a credential replaced: API keys, user information of URLs, JSON web tokens, PEM blocks, and what
/// follows words such as `password`.
pub fn scrub(text: &str) -> String {
    let cut: String = text.chars().take(MAX_TEXT).collect();
    let without_pem = without_pem(&cut);
    let lines = without_pem.split('\n').map(|line| {
        let mut after_label = false;
        let words =
            line.split_inclusive([' ', '\t', ',', ';', '"', '\'', '(', ')', '{', '}', '[', ']', '<', '>']);
        words.map(|word| one(word, &mut after_label)).collect::<String>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn is_credential(word: &str) -> bool {
    let base64 = |part: &str| {
        part.len() >= 8 && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte))
    };
    let is_web_token =
        word.starts_with("eyJ") && word.split('.').count() >= 2 && word.split('.').take(2).all(base64);
    word.contains("crft_") || is_web_token
}

/// One word with its separator.
fn one(word: &str, after_label: &mut bool) -> String {
    let text = word.trim_end_matches(|c: char| " \t,;\"'(){}[]<>".contains(c));
    let separator = &word[text.len()..];
    if text.is_empty() {
        return separator.to_owned();
    }
    let was_after_label = std::mem::replace(after_label, false);
    let lower = text.to_lowercase();
    let bare = lower.trim_end_matches([':', '=']);
    // `password:` and `Bearer`: the next word is one. `password` alone is only a word of a sentence.
    let has_sign = lower.len() > bare.len() || separator.contains(['"', '\'']);
    if LABELS.iter().any(|label| bare.ends_with(label)) && (has_sign || bare == "bearer") {
        *after_label = true;
        let shown = if is_credential(text) { HIDDEN.to_owned() } else { without_user_information(text) };
        return format!("{shown}{separator}");
    }
    if matches!(bare, "basic" | "bearer") && was_after_label {
        *after_label = true;
        return format!("{text}{separator}");
    }
    if text.chars().all(|c| ":=".contains(c)) && was_after_label {
        *after_label = true;
        return format!("{text}{separator}");
    }
    if was_after_label || is_credential(text) {
        return format!("{HIDDEN}{separator}");
    }
    if let Some((label, value)) = text.split_once(['=', ':'])
        && !value.starts_with("//")
        && !value.is_empty()
        && LABELS.iter().any(|known| label.to_lowercase().ends_with(known))
    {
        return format!("{label}={HIDDEN}{separator}");
    }
    format!("{}{separator}", without_user_information(text))
}

/// `postgres://user:password@host` without user and password.
fn without_user_information(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may hold a slash that was not escaped: the last @ counts.
    match rest.rfind('@') {
        Some(at) if at < end || rest[..at].contains(':') => {
            format!("{scheme}://{HIDDEN}@{}", &rest[at + 1..])
        }
        _ => text.to_owned(),
    }
}

fn without_pem(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN") {
        kept += &rest[..begin];
        kept += HIDDEN;
        rest = rest[begin..].find("-----END").map_or("", |end| {
            let after = &rest[begin + end + "-----END".len()..];
            after.find("-----").map_or("", |close| &after[close + 5..])
        });
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_credential_is_replaced() {
        for text in [
            "key crft_abcdefghijkl_geheim0000",
            "postgres://crofter:geheim@db:5432/crofter",
            "postgres://crofter:ge/heim@db/x?sslmode=require",
            "Authorization: Bearer geheim",
            "authorization: Basic geheim",
            "password=geheim",
            "PASSWORD: geheim",
            "\"password\": \"geheim\"",
            "--token=geheim",
            "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJnZWhlaW0ifQ.geheim",
            "x -----BEGIN PRIVATE KEY-----\ngeheim\n-----END PRIVATE KEY----- y",
            "x -----BEGIN PRIVATE KEY-----\ngeheim",
            "postgres://u:geheim@db/x?token: x",
            "crft_abcdefghijkl_geheim_token: x",
        ] {
            let shown = scrub(text);
            assert!(shown.contains(HIDDEN) && !shown.contains("heim"), "{text}: {shown}");
        }
    }

    #[test]
    fn what_says_something_stays() {
        for text in [
            "max concurrent jobs limit reached (5/5)",
            "failed to read the Secret crofter-key-ci: no such token",
            "https://crofter.example.org/v1/jobs?status=queued",
            "the password is wrong",
            "2026-11-30T12:00:00Z",
        ] {
            assert_eq!(scrub(text), text);
        }
    }
}
