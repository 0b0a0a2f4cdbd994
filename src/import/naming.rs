//! Names of the original service as names of Kubernetes: the same ones each time, and no two alike.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::hex::hex;

/// Longest name of a tenant.
pub const MAX_TENANT: usize = 40;
/// Digits of the hash that makes two names differ.
const HASH: usize = 8;

/// A text as a DNS label of at most `max` characters: what can't stand in one becomes a dash. Empty where nothing is left.
#[must_use]
pub fn label(text: &str, max: usize) -> String {
    let mut label = String::with_capacity(text.len().min(max));
    for c in text.chars().map(|c| c.to_ascii_lowercase()) {
        let plain = c.is_ascii_lowercase() || c.is_ascii_digit();
        if label.len() == max {
            break;
        }
        if plain || (!label.is_empty() && !label.ends_with('-')) {
            label.push(if plain { c } else { '-' });
        }
    }
    label.truncate(label.trim_end_matches('-').len());
    label
}

/// The first digits of the SHA-256 of a text.
#[must_use]
pub fn short_hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..HASH / 2])
}

/// The name of each tenant, by the id of its row.
#[derive(Debug, Default)]
pub struct TenantNames(BTreeMap<String, String>);

impl TenantNames {
    /// Names of rows, given as id and name. One whose name is a tenant's name already keeps it; where two others become the
    /// same, both get a hash of their id.
    #[must_use]
    pub fn of<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Self {
        let mut labels: BTreeMap<String, usize> = BTreeMap::new();
        let exact: BTreeSet<&str> = rows
            .clone()
            .map(|(_, name)| name)
            .filter(|name| !name.is_empty() && label(name, MAX_TENANT) == *name)
            .collect();
        for (_, name) in rows.clone().filter(|(_, name)| !exact.contains(name)) {
            *labels.entry(label(name, MAX_TENANT)).or_default() += 1;
        }
        let name_of = |id: &str, name: &str| {
            let own = label(name, MAX_TENANT);
            if exact.contains(name) || (!own.is_empty() && labels[&own] == 1 && !exact.contains(own.as_str()))
            {
                return own;
            }
            let start = label(&own, MAX_TENANT - HASH - 1);
            let start = if start.is_empty() { "tenant" } else { &start };
            format!("{start}-{}", short_hash(id))
        };
        Self(rows.map(|(id, name)| (id.to_owned(), name_of(id, name))).collect())
    }

    /// The name of the tenant with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }

    /// Whether a tenant has this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.values().any(|own| own == name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(rows: &[(&str, &str)]) -> Vec<String> {
        let names = TenantNames::of(rows.iter().copied());
        rows.iter().map(|(id, _)| names.get(id).unwrap().to_owned()).collect()
    }

    #[test]
    fn a_name_changes_as_little_as_it_must() {
        assert_eq!(names(&[("1", "acme"), ("2", "Globex Corp.")]), ["acme", "globex-corp"]);
        assert_eq!(label("--Ünï--code__x--", 40), "n-code-x");
        assert_eq!(label("abc-def", 4), "abc");
        // An exact name is kept; one that becomes the same gets a hash.
        let two = names(&[("1", "acme"), ("2", "ACME"), ("3", "日本")]);
        assert_eq!(two[0], "acme");
        assert_eq!(two[1], format!("acme-{}", short_hash("2")));
        assert_eq!(two[2], format!("tenant-{}", short_hash("3")));
        let alike = names(&[("1", "A b"), ("2", "a_B")]);
        assert_eq!(alike, [format!("a-b-{}", short_hash("1")), format!("a-b-{}", short_hash("2"))]);
    }

    proptest! {
        #[test]
        fn every_name_is_a_tenants_and_no_two_are_alike(texts in prop::collection::vec(".{0,60}", 1..20)) {
            let texts: BTreeSet<String> = texts.into_iter().collect();
            let rows: Vec<(String, String)> = texts.into_iter().enumerate().map(|(n, name)| (n.to_string(), name)).collect();
            let names = TenantNames::of(rows.iter().map(|(id, name)| (id.as_str(), name.as_str())));
            let mut seen = BTreeSet::new();
            for (id, text) in &rows {
                let name = names.get(id).unwrap();
                prop_assert!(!name.is_empty() && name.len() <= MAX_TENANT, "{text:?}: {name}");
                prop_assert_eq!(&label(name, MAX_TENANT), name);
                prop_assert!(seen.insert(name.to_owned()), "{}", name);
            }
        }
    }
}
