//! Names and UIDs of objects, as clients send them in a path, a parameter or a header.

use uuid::Uuid;

/// A UID in the form of responses, with hyphens; as RFC 9562 requires, capitals are accepted too.
#[must_use]
pub fn uid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|uid| uid.to_string().eq_ignore_ascii_case(text))
}

/// A name or UID in the form of Kubernetes: a UID in small letters, and anything else unchanged.
#[must_use]
pub fn canonical(text: String) -> String {
    uid(&text).map_or(text, |uid| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_accepted_in_capitals_and_in_no_other_form() {
        let small = "0b8e9c1a-0000-4000-8000-00000000000f";
        assert_eq!(canonical(small.to_uppercase()), small);
        assert_eq!(uid(small).unwrap().to_string(), small);
        for other in
            ["Acme", "0B8E9C1A000040008000000000000000", "{0b8e9c1a-0000-4000-8000-00000000000f}", ""]
        {
            assert_eq!((uid(other), canonical(other.to_owned())), (None, other.to_owned()));
        }
    }
}
