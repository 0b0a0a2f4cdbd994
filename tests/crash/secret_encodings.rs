//! Finds a secret text in bytes, in every form in which programs write texts.

use std::collections::HashMap;

use axum::body::Bytes;

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const FOR_URLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The shortest form that is searched: a shorter one occurs by chance.
const SHORTEST: usize = 8;

/// The secrets to find, by the first bytes of each of their forms.
#[derive(Default)]
pub struct SecretForms {
    forms: HashMap<[u8; SHORTEST], Vec<(String, Vec<u8>)>>,
    /// First two bytes of forms: most positions need no lookup in the map.
    begins: Vec<bool>,
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Base64 of a text that begins `after` bytes into a group of three: the digits that depend on nothing but the text.
fn base64(text: &[u8], after: usize, alphabet: &[u8; 64]) -> Vec<u8> {
    let whole = [&vec![0; after], text].concat();
    let digits = whole.chunks_exact(3).flat_map(|group| {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| alphabet[bits >> shift & 63])
    });
    digits.skip((after * 8).div_ceil(6)).collect()
}

/// The forms of a text.
fn forms(text: &[u8]) -> Vec<Vec<u8>> {
    let each = |between: &str, form: &dyn Fn(u8) -> String| {
        text.iter().map(|byte| form(*byte)).collect::<Vec<_>>().join(between).into_bytes()
    };
    let escaped = |kept: &[u8], escape: &dyn Fn(u8) -> String| {
        each("", &|byte| match byte {
            _ if byte.is_ascii_alphanumeric() || kept.contains(&byte) => char::from(byte).to_string(),
            _ => escape(byte),
        })
    };
    let (lower, upper) = (|byte| format!("%{byte:02x}"), |byte| format!("%{byte:02X}"));
    let mut all = vec![
        text.to_vec(),
        each("", &|byte| format!("{byte:02x}")),
        each("", &|byte| format!("{byte:02X}")),
        each("", &lower),
        each("", &upper),
        // As URLs and forms write texts,
        escaped(b"-._~", &lower),
        escaped(b"-._~", &upper),
        escaped(b"-._*", &|byte| if byte == b' ' { "+".to_owned() } else { upper(byte) }),
        // Rust, JSON and Go bytes,
        each(", ", &|byte| byte.to_string()),
        each(",", &|byte| byte.to_string()),
        each(" ", &|byte| byte.to_string()),
        // and Rust and JSON what is between quotes.
        text.escape_ascii().collect(),
        format!("{:?}", Bytes::copy_from_slice(text)).as_bytes()[2..].strip_suffix(b"\"").unwrap().to_vec(),
    ];
    if let Ok(text) = std::str::from_utf8(text) {
        let quoted = [format!("{text:?}"), serde_json::to_string(text).unwrap()];
        all.extend(quoted.map(|quoted| quoted.as_bytes()[1..quoted.len() - 1].to_vec()));
    }
    for after in 0..3 {
        all.extend([STANDARD, FOR_URLS].map(|alphabet| base64(text, after, alphabet)));
    }
    all.sort();
    all.dedup();
    all
}

impl SecretForms {
    /// Adds a secret. Half of it counts as found, too.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        self.begins.resize(1 << 16, false);
        let (head, tail) = secret.split_at(secret.len() / 2);
        for form in forms(head).into_iter().chain(forms(tail)) {
            let begin: [u8; SHORTEST] = form[..SHORTEST].try_into().unwrap();
            self.begins[pair(&begin)] = true;
            self.forms.entry(begin).or_default().push((name.to_owned(), form));
        }
    }

    /// The names of what is found in these bytes, with what is around it.
    pub fn found(&self, bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (at, begin) in bytes.windows(SHORTEST).enumerate() {
            if !self.begins[pair(begin)] {
                continue;
            }
            for (name, form) in self.forms.get(begin).into_iter().flatten() {
                if bytes[at..].starts_with(form) {
                    let around = &bytes[at.saturating_sub(200)..(at + form.len() + 60).min(bytes.len())];
                    found.push(format!("{name}: …{}…", String::from_utf8_lossy(around)));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two halves of one secret: each has what every form writes in its own way.
    const HALVES: [&[u8]; 2] = [b"correct ~*/\"\\\xff\xff", b"staple /7~*\"\x00\xff\xff"];
    /// The same of a secret that is a text.
    const TEXTS: [&str; 2] = ["pass\"w\u{fc}rd\0/one", "pass\"w\u{fc}rd\0/two"];

    fn secret_forms(halves: [&[u8]; 2]) -> SecretForms {
        let mut secrets = SecretForms::default();
        assert_eq!(halves[0].len(), halves[1].len());
        secrets.add("horse", &halves.concat());
        secrets
    }

    /// Finds it alone, and in the middle of something.
    fn is_found(secrets: &SecretForms, form: &str, text: &[u8]) {
        let among = [b"a line before \xff", text, b" and behind"].concat();
        for bytes in [text, &among] {
            let found = secrets.found(bytes);
            assert!(!found.is_empty(), "{form}: {}", String::from_utf8_lossy(bytes));
            assert!(found.iter().all(|found| found.starts_with("horse: ")), "{found:?}");
        }
    }

    /// Base64 with padding, by the book.
    fn whole(text: &[u8]) -> String {
        let mut padded = text.to_vec();
        padded.resize(text.len().div_ceil(3) * 3, 0);
        let mut digits = base64(&padded, 0, STANDARD);
        digits.truncate((text.len() * 8).div_ceil(6));
        digits.resize(digits.len().div_ceil(4) * 4, b'=');
        String::from_utf8(digits).unwrap()
    }

    #[test]
    fn base64_is_what_others_write() {
        assert_eq!([&b"f"[..], b"fo", b"foo", b"foob"].map(whole), ["Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn half_a_secret_is_found_in_every_form() {
        let secrets = secret_forms(HALVES);
        // Both halves as URL and as form encoding.
        let urls = [
            ["correct%20~%2A%2F%22%5C%FF%FF", "correct+%7E*%2F%22%5C%FF%FF"],
            ["staple%20%2F7~%2A%22%00%FF%FF", "staple+%2F7%7E*%22%00%FF%FF"],
        ];
        for (half, [url, form]) in HALVES.into_iter().zip(urls) {
            let hex: String = half.iter().map(|byte| format!("{byte:02x}")).collect();
            let percent: String = half.iter().map(|byte| format!("%{byte:02X}")).collect();
            // Each half is found as it is, and in every encoding but base64.
            is_found(&secrets, "raw", half);
            for (name, text) in [
                ("hex", hex.clone()),
                ("HEX", hex.to_uppercase()),
                ("percent", percent.to_lowercase()),
                ("PERCENT", percent),
                (
                    "url",
                    url.replace("%2A", "%2a")
                        .replace("%2F", "%2f")
                        .replace("%5C", "%5c")
                        .replace("%FF", "%ff"),
                ),
                ("URL", url.to_owned()),
                ("form", form.to_owned()),
                ("bytes in Rust", format!("{half:?}")),
                ("bytes in JSON", serde_json::to_string(half).unwrap()),
                ("bytes in Go", format!("{half:?}").replace(',', "")),
                ("a byte string", format!("{:?}", Bytes::from_static(half))),
                ("escaped", half.escape_ascii().to_string()),
            ] {
                is_found(&secrets, name, text.as_bytes());
            }
            // In base64 it is found at each offset, in both alphabets, padded or not.
            for before in ["", "x", "xy", "xyz"] {
                let standard = whole(&[before.as_bytes(), half, b"and more"].concat());
                let for_urls = standard.replace('+', "-").replace('/', "_");
                assert_ne!(standard, for_urls, "the half shows which alphabet it is");
                for text in [standard, for_urls] {
                    is_found(&secrets, &format!("base64 after {before:?}"), text.as_bytes());
                    is_found(&secrets, "base64 without padding", text.trim_end_matches('=').as_bytes());
                }
            }
        }
    }

    #[test]
    fn half_a_secret_is_found_between_quotes() {
        let secrets = secret_forms(TEXTS.map(str::as_bytes));
        for half in TEXTS {
            is_found(&secrets, "Rust", format!("{half:?}").as_bytes());
            is_found(&secrets, "JSON", json!({"a": [half]}).to_string().as_bytes());
            is_found(&secrets, "raw", half.as_bytes());
        }
    }

    #[test]
    fn what_is_none_is_not_found() {
        let secrets = secret_forms(HALVES);
        for none in [&b""[..], b"short", b"correct horse", b"a correct donkey, battery and staple"] {
            assert_eq!(secrets.found(none), Vec::<String>::new());
        }
        // Much of everything, and as long as a log: no form begins with what is everywhere.
        let mut random = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        })
        .take(1 << 16)
        .collect();
        let but_one: Vec<u8> = HALVES.iter().flat_map(|half| &half[..half.len() - 1]).copied().collect();
        for none in [noise.clone(), whole(&noise).into_bytes(), but_one] {
            assert_eq!(secrets.found(&none), Vec::<String>::new());
        }
    }
}
