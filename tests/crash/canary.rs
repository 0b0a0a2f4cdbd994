//! Looks for a secret text wherever it may have gone, in every form in which programs write texts.

use std::{collections::HashMap, fmt::Write as _};

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const FOR_URLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Shortest form that is looked for: what is shorter is found by chance.
const SHORTEST: usize = 8;

/// The secrets that are looked for, by the first bytes of each of their forms.
#[derive(Default)]
pub struct Canaries {
    forms: HashMap<[u8; SHORTEST], Vec<(String, Vec<u8>)>>,
    /// First two bytes of forms: most places need no look into the map.
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
    let each = |form: &dyn Fn(&mut String, u8)| {
        let mut written = String::new();
        text.iter().for_each(|byte| form(&mut written, *byte));
        written.into_bytes()
    };
    let mut all = vec![
        text.to_vec(),
        each(&|to, byte| write!(to, "{byte:02x}").unwrap()),
        each(&|to, byte| write!(to, "{byte:02X}").unwrap()),
        each(&|to, byte| write!(to, "%{byte:02x}").unwrap()),
        each(&|to, byte| write!(to, "%{byte:02X}").unwrap()),
        // As URLs, Rust and JSON write bytes.
        each(&|to, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(byte.into()),
            _ => write!(to, "%{byte:02X}").unwrap(),
        }),
        each(&|to, byte| write!(to, "{byte}, ").unwrap()),
        each(&|to, byte| write!(to, "{byte},").unwrap()),
    ];
    for after in 0..3 {
        all.extend([STANDARD, FOR_URLS].map(|alphabet| base64(text, after, alphabet)));
    }
    all.sort();
    all.dedup();
    all
}

impl Canaries {
    /// Looks for a secret, too. Half of it is as bad as the whole.
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
    use super::*;

    const SECRET: &[u8] = b"correct horse battery~staple/7+\xff\x00z";

    fn canaries() -> Canaries {
        let mut canaries = Canaries::default();
        canaries.add("horse", SECRET);
        canaries
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
    fn a_canary_is_found_in_every_form() {
        let canaries = canaries();
        let hex: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        let percent: String = SECRET.iter().map(|byte| format!("%{byte:02X}")).collect();
        let mut written = vec![
            SECRET.to_vec(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
            percent.clone().into_bytes(),
            percent.to_lowercase().into_bytes(),
            b"correct%20horse%20battery~staple%2F7%2B%FF%00z".to_vec(),
            format!("{SECRET:?}").into_bytes(),
            serde_json::to_vec(SECRET).unwrap(),
        ];
        for before in ["", "x", "xy", "xyz"] {
            let text = [before.as_bytes(), SECRET, b"and more"].concat();
            written.push(whole(&text).into_bytes());
            written.push(whole(&text).replace('+', "-").replace('/', "_").into_bytes());
        }
        for text in written {
            let planted = [b"a line before ", &text[..], b" and behind"].concat();
            assert!(!canaries.found(&planted).is_empty(), "{}", String::from_utf8_lossy(&planted));
            assert!(!canaries.found(&text).is_empty(), "also with nothing around");
        }
    }

    #[test]
    fn half_a_canary_is_found_and_what_is_none_is_not() {
        let canaries = canaries();
        for half in [&SECRET[..SECRET.len() / 2], &SECRET[SECRET.len() / 2..]] {
            assert_eq!(canaries.found(half).len(), 1);
        }
        for none in [&b""[..], b"short", b"correct horse", b"a correct donkey, battery and staple"] {
            assert_eq!(canaries.found(none), Vec::<String>::new());
        }
    }
}
