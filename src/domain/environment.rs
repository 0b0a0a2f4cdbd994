//! What a job's process is given as environment and arguments: whether the kernel can execute it, and which variables
//! its parameters are.
//!
//! Linux passes no string (`NAME=value`, an argument) of more than 128 KiB with its final NUL (`MAX_ARG_STRLEN`, 32
//! pages of 4 KiB), and all of them together in a quarter of the stack's limit, which is 2 MiB where the stack's is the
//! usual 8 MiB. Half of that is a job's; the rest is left for what is added where it can't be seen: the image's own
//! variables, and those of Secrets and ConfigMaps. A pod within these bounds also fits into etcd (1.5 MiB). What is
//! beyond ends with `argument list too long` in the container, after an image was pulled for it, so it is refused
//! before that, with the numbers.

use std::collections::BTreeMap;

use crate::{
    api_types::{JobSpec, job::ParameterValue},
    names,
};

/// Most bytes of one variable with its name, or of one argument: `MAX_ARG_STRLEN` without the final NUL.
pub const MAX_STRING_BYTES: usize = 128 * 1024 - 1;
/// Most bytes of all of them.
pub const MAX_TOTAL_BYTES: usize = 1024 * 1024;
/// Variable with all parameters, as JSON.
pub const PARAMETERS: &str = "CROFTER_PARAMETERS";
/// The final NUL of a string, and the pointer to it.
const EACH: usize = 9;

/// Why a process can't be given what its job asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Two parameters are one variable.
    #[error("parameters {first} and {second} are both given as {variable}: rename one of them")]
    Colliding {
        /// Name of one.
        first: String,
        /// Name of the other.
        second: String,
        /// Their variable.
        variable: String,
    },
    /// One string is too long.
    #[error(
        "{what} has {bytes} bytes, and Linux passes at most {MAX_STRING_BYTES} to a process in one: put it into a volume"
    )]
    One {
        /// Which one.
        what: String,
        /// Its length.
        bytes: usize,
    },
    /// All parameters are too long together.
    #[error(
        "the parameters have {bytes} bytes as JSON in {PARAMETERS}, and Linux passes at most {MAX_STRING_BYTES} to a process in \
         one variable: put what is large into a volume"
    )]
    Parameters {
        /// Length of the variable.
        bytes: usize,
    },
    /// All of it is too long together.
    #[error(
        "command, arguments, environment and parameters have {bytes} bytes together, and at most {MAX_TOTAL_BYTES} are passed \
         to a process: put what is large into a volume"
    )]
    All {
        /// Their length.
        bytes: usize,
    },
}

/// All parameters as JSON; `None` where there are none.
#[must_use]
pub fn parameters_json(parameters: &BTreeMap<String, ParameterValue>) -> Option<String> {
    let texts: BTreeMap<&str, &str> = parameters.iter().map(|(k, v)| (k.as_str(), v.0.as_str())).collect();
    (!texts.is_empty()).then(|| serde_json::json!(texts).to_string())
}

/// A text that reaches the container as it is: Kubernetes replaces `$(NAME)` in the value of a variable, and makes one
/// `$` of `$$`.
#[must_use]
pub fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// Checks what a job, with all that its scenario supplies, gives to its process.
///
/// # Errors
/// [`EnvironmentError`], a sentence for the job's owner.
pub fn check(spec: &JobSpec) -> Result<(), EnvironmentError> {
    let variables = parameter_variables(&spec.parameters)?;
    let json = parameters_json(&spec.parameters);
    if let Some(bytes) = json.as_ref().map(|json| PARAMETERS.len() + 1 + json.len())
        && bytes > MAX_STRING_BYTES
    {
        return Err(EnvironmentError::Parameters { bytes });
    }
    let mut all = json.map_or(0, |json| PARAMETERS.len() + 1 + json.len() + EACH);
    let mut count = |what: &dyn Fn() -> String, bytes: usize| {
        if bytes > MAX_STRING_BYTES {
            return Err(EnvironmentError::One { what: what(), bytes });
        }
        all += bytes + EACH;
        Ok(())
    };
    for (kind, texts) in [("command", &spec.command), ("args", &spec.args)] {
        for (n, text) in texts.iter().enumerate() {
            count(&|| format!("spec.{kind}[{n}]"), text.len())?;
        }
    }
    for (n, variable) in spec.env.iter().enumerate() {
        let bytes = variable.name.len() + 1 + variable.value.as_ref().map_or(0, String::len);
        count(&|| format!("spec.env[{n}] ({})", variable.name), bytes)?;
    }
    for (variable, (name, value)) in &variables {
        count(&|| format!("parameter {name}"), variable.len() + 1 + value.len())?;
    }
    if all > MAX_TOTAL_BYTES { Err(EnvironmentError::All { bytes: all }) } else { Ok(()) }
}

/// Name and value of each parameter, by its variable.
fn parameter_variables(
    parameters: &BTreeMap<String, ParameterValue>,
) -> Result<BTreeMap<String, (&str, &str)>, EnvironmentError> {
    let mut variables: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (second, value) in parameters {
        let variable = names::parameter_variable(second);
        if let Some((first, _)) = variables.get(&variable) {
            let (first, second) = ((*first).to_owned(), second.clone());
            return Err(EnvironmentError::Colliding { first, second, variable });
        }
        variables.insert(variable, (second, &value.0));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn checked(spec: Value) -> Result<(), EnvironmentError> {
        let mut whole = json!({"image": "i"});
        crate::kube_ext::mock::merge(&mut whole, &spec);
        check(&serde_json::from_value(whole).unwrap())
    }

    fn parameters(count: usize, value: &str) -> Value {
        let all: serde_json::Map<_, _> = (0..count).map(|n| (format!("p{n:02}"), json!(value))).collect();
        json!({"parameters": all})
    }

    #[test]
    fn parameters_that_are_one_variable_are_refused_with_both_names() {
        for (first, second) in [("frame-no", "frame_no"), ("FRAME-NO", "frame.no")] {
            let error = checked(json!({"parameters": {(first): "1", (second): "2"}})).unwrap_err();
            let sentence = format!(
                "parameters {first} and {second} are both given as CROFTER_PARAM_FRAME_NO: rename one of them"
            );
            assert_eq!(error.to_string(), sentence);
        }
        assert_eq!(checked(json!({"parameters": {"frame-no": "1", "frameno": "2"}})), Ok(()));
    }

    #[test]
    fn parameters_too_long_for_one_variable_of_the_kernel_are_refused_with_the_numbers() {
        // {"p00":"...", ...}: 9 bytes and the value for each of 32, and one brace more; 19 for the variable's name.
        let error = checked(parameters(32, &"x".repeat(4096))).unwrap_err();
        assert_eq!(error, EnvironmentError::Parameters { bytes: 19 + 1 + 32 * (9 + 4096) });
        assert!(
            error.to_string().contains("131380 bytes") && error.to_string().contains("131071"),
            "{error}"
        );
        let most = |last: usize| {
            let mut all = parameters(31, &"x".repeat(4096));
            all["parameters"]["p31"] = json!("x".repeat(last));
            checked(all)
        };
        assert_eq!(most(4096 - 309), Ok(()));
        assert_eq!(most(4096 - 308), Err(EnvironmentError::Parameters { bytes: MAX_STRING_BYTES + 1 }));
        let escaped = checked(parameters(16, &"\u{1}".repeat(2048))).unwrap_err();
        assert!(
            matches!(escaped, EnvironmentError::Parameters { bytes: 196_000.. }),
            "as JSON writes it: {escaped}"
        );
    }

    #[test]
    fn a_string_too_long_for_the_kernel_is_refused_with_its_position() {
        let long = "\u{1F600}".repeat(32 * 1024);
        let bytes = 128 * 1024;
        let refused = |spec: Value| checked(spec).unwrap_err();
        let one = |what: &str, bytes| EnvironmentError::One { what: what.to_owned(), bytes };
        assert_eq!(refused(json!({"args": ["a", &long]})), one("spec.args[1]", bytes));
        assert_eq!(refused(json!({"command": [&long]})), one("spec.command[0]", bytes));
        let env = json!({"env": [{"name": "A", "value": &long}]});
        assert_eq!(refused(env), one("spec.env[0] (A)", bytes + 2));
        assert_eq!(checked(json!({"args": [&long[4..]]})), Ok(()));
    }

    #[test]
    fn what_is_too_much_in_all_is_refused_though_each_is_not() {
        let args = |count: usize| checked(json!({"args": vec!["x".repeat(4200); count]}));
        assert_eq!(args(249), Ok(()));
        assert_eq!(args(250), Err(EnvironmentError::All { bytes: 250 * (4200 + 9) }));
    }

    /// As Kubernetes' `third_party/forked/golang/expansion` does it, with no variable known.
    fn expanded(text: &str) -> String {
        let (mut out, mut rest) = (String::new(), text);
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            match rest.chars().next() {
                Some('$') => (out, rest) = (out + "$", &rest[1..]),
                Some('(') if rest.contains(')') => {
                    let end = rest.find(')').unwrap();
                    out.push_str("<the value of a variable>");
                    rest = &rest[end + 1..];
                }
                _ => out.push('$'),
            }
        }
        out + rest
    }

    proptest! {
        #[test]
        fn a_literal_reaches_the_container_as_it_was_written(text in "[$()A-Z\"\\\\ é]{0,24}") {
            prop_assert_eq!(expanded(&literal(&text)), text.clone());
            let parameters = BTreeMap::from([("p".to_owned(), ParameterValue(text.clone()))]);
            let json = expanded(&literal(&parameters_json(&parameters).unwrap()));
            let read: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read["p"], &text);
        }
    }

    #[test]
    fn without_it_it_does_not() {
        assert_eq!(expanded("cost $$5"), "cost $5");
        assert_eq!(expanded("$(TOKEN)"), "<the value of a variable>");
    }
}
