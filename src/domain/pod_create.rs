//! What an answer to the creation of a pod means for its job: the one table, for the job controller and the scheduler.
//!
//! Final is only what the API server itself says of the pod as it was sent: the same pod is refused again, whoever is
//! asked and whenever. Everything that others have a say in (a webhook, a policy, a quota, an account, the namespace)
//! may change within a minute, so the job waits, its status says why, and other jobs get its reservation. The words of
//! an API server begin with who refuses; what a user wrote comes after that, so only beginnings are compared.
//!
//! | answer | meaning |
//! |---|---|
//! | 400 of the API server: the pod can't be decoded | [`Final`](Meaning::Final) |
//! | 422 `Pod "x" is invalid` | `Final` |
//! | 413 `Request entity too large`; 500 of an etcd that does not take so large an object | `Final` |
//! | 400, 403, 422 or any other code of an admission webhook or policy that denies | [`GiveBack`](Meaning::GiveBack) |
//! | 500 `failed calling webhook`: a webhook that is down | `GiveBack` |
//! | 403 of an exceeded quota (its count lags behind pods that have ended), of a missing account | [`TryAgain`](Meaning::TryAgain) |
//! | 403 of a namespace that is being terminated, of Pod Security, of access, of a `LimitRange` | `GiveBack` |
//! | 404: no such namespace | `GiveBack` |
//! | 409: a quota was changed meanwhile, or an object of that name is just being deleted | `TryAgain` |
//! | 429 | `TryAgain` |
//! | other 5xx: each try may have been counted by the `ResourceQuota`, so there is one at a time | `GiveBack` |
//! | no answer in time, 504: the pod may have been created | `GiveBack`; if it was, the job is admitted again |
//! | no connection: no pod can be created at all | [`Keep`](Meaning::Keep) |

/// The most characters of an API server's message that are kept: that of an invalid pod repeats the values.
const MAX_MESSAGE_CHARS: usize = 1000;

/// What the API server answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It refused, with this HTTP status and in these words.
    Refused {
        /// The HTTP status.
        code: u16,
        /// The message of the `Status` object.
        words: &'a str,
    },
    /// Nothing, within the deadline.
    Timeout,
    /// It could not be reached.
    Unreachable,
}

/// What that means for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The same pod is refused again: the job is Rejected.
    Final,
    /// It mostly ends within seconds: the job stays admitted for some quick tries, then as
    /// [`GiveBack`](Self::GiveBack).
    TryAgain,
    /// It may end at an unknown time: the job's quota and node are released, and the job waits, longer each time.
    GiveBack,
    /// It concerns every pod: the job stays admitted, because no other job could use its quota and node.
    Keep,
}

/// The table.
#[must_use]
pub fn meaning(answer: &Answer<'_>) -> Meaning {
    let (code, words) = match answer {
        Answer::Refused { code, words } => (*code, *words),
        Answer::Timeout => return Meaning::GiveBack,
        Answer::Unreachable => return Meaning::Keep,
    };
    match code {
        _ if is_of_others(words) => Meaning::GiveBack,
        400 if is_not_decoded(words) => Meaning::Final,
        413 if words.starts_with("Request entity too large") => Meaning::Final,
        422 if words.starts_with("Pod \"") => Meaning::Final,
        403 if is_transient(words) => Meaning::TryAgain,
        409 | 429 => Meaning::TryAgain,
        500.. if is_too_large(words) => Meaning::Final,
        _ => Meaning::GiveBack,
    }
}

/// Whether any other pod of the namespace would be answered like that, too, as far as the answer shows.
#[must_use]
pub fn is_outage(answer: &Answer<'_>) -> bool {
    match answer {
        Answer::Refused { code, words } => *code >= 500 && !is_too_large(words),
        Answer::Timeout | Answer::Unreachable => true,
    }
}

/// The sentence for a job that waits or ends because of an answer.
#[must_use]
pub fn sentence(answer: &Answer<'_>, meaning: Meaning) -> String {
    match answer {
        Answer::Refused { words, .. } => {
            let words = shortened(words);
            match meaning {
                Meaning::Final => format!("the API server refuses the pod: {words}"),
                _ => format!("the API server refuses the pod for the moment: {words}"),
            }
        }
        Answer::Timeout => "the API server did not answer in time when the pod was created".to_owned(),
        Answer::Unreachable => "the API server could not be reached when the pod was created".to_owned(),
    }
}

/// An admission webhook (denying, or not answering) or a policy: neither is the API server's own word.
fn is_of_others(words: &str) -> bool {
    let denied_by_policy =
        after_name(words).is_some_and(|rest| rest.starts_with("ValidatingAdmissionPolicy "));
    denied_by_policy
        || words.starts_with("admission webhook ")
        || ["failed calling webhook ", "failed to call webhook", "admission webhook "].iter().any(|webhook| {
            words.strip_prefix("Internal error occurred: ").is_some_and(|w| w.starts_with(webhook))
        })
}

/// A quota whose count lags, or has not been made yet; an account that is about to be created with its namespace.
fn is_transient(words: &str) -> bool {
    let soon = ["exceeded quota: ", "status unknown for quota: ", "error looking up service account "];
    after_name(words).is_some_and(|rest| soon.iter().any(|beginning| rest.starts_with(beginning)))
}

/// What follows `pods "x" is forbidden: `.
fn after_name(words: &str) -> Option<&str> {
    let (_, rest) = words.strip_prefix("pods \"")?.split_once('"')?;
    rest.strip_prefix(" is forbidden: ")
}

fn is_not_decoded(words: &str) -> bool {
    ["Pod in version ", "the object provided is unrecognized "].iter().any(|own| words.starts_with(own))
}

/// etcd's bound of a request (1.5 MiB), and the one of the API server's own messages to it (2 MiB).
fn is_too_large(words: &str) -> bool {
    ["etcdserver: request is too large", "trying to send message larger than max"]
        .iter()
        .any(|sign| words.contains(sign))
}

fn shortened(words: &str) -> String {
    match words.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: [(u16, &str, Meaning); 28] = [
        // The API server's own word on the pod as it was sent.
        (400, "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error", Meaning::Final),
        (422, "Pod \"x\" is invalid: spec.containers[0].env[0].name: Invalid value: \"=\"", Meaning::Final),
        (
            422,
            "Pod \"x\" is invalid: spec.containers[0].image: Invalid value: \"admission webhook \"a\"\"",
            Meaning::Final,
        ),
        (413, "Request entity too large: limit is 3145728", Meaning::Final),
        (500, "etcdserver: request is too large", Meaning::Final),
        (
            500,
            "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2300000 vs. 2097152)",
            Meaning::Final,
        ),
        // Webhooks: down, and denying with the code that they like; 400 is the API server's default for them.
        (
            500,
            "Internal error occurred: failed calling webhook \"a.b.c\": failed to call webhook: Post \"https://a.b.svc:443/\": connect: connection refused",
            Meaning::GiveBack,
        ),
        (
            500,
            "Internal error occurred: failed calling webhook \"a.b.c\": trying to send message larger than max",
            Meaning::GiveBack,
        ),
        (400, "admission webhook \"a.b.c\" denied the request: not now", Meaning::GiveBack),
        (403, "admission webhook \"a.b.c\" denied the request: not now", Meaning::GiveBack),
        (422, "admission webhook \"a.b.c\" denied the request: not now", Meaning::GiveBack),
        (413, "admission webhook \"a.b.c\" denied the request: not now", Meaning::GiveBack),
        // Policies, with the reason that they give.
        (
            422,
            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            Meaning::GiveBack,
        ),
        (
            403,
            "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            Meaning::GiveBack,
        ),
        (413, "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no", Meaning::GiveBack),
        (
            403,
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:v1.34\": runAsNonRoot != true",
            Meaning::GiveBack,
        ),
        // What lags behind.
        (
            403,
            "pods \"x\" is forbidden: exceeded quota: crofter, requested: pods=1, used: pods=5, limited: pods=5",
            Meaning::TryAgain,
        ),
        (
            403,
            "pods \"x\" is forbidden: status unknown for quota: crofter, resources: pods",
            Meaning::TryAgain,
        ),
        (
            403,
            "pods \"x\" is forbidden: error looking up service account a/crofter-job: serviceaccount \"crofter-job\" not found",
            Meaning::TryAgain,
        ),
        (
            409,
            "Operation cannot be fulfilled on resourcequotas \"crofter\": the object has been modified",
            Meaning::TryAgain,
        ),
        (429, "too many requests", Meaning::TryAgain),
        // What lasts, and is not the job's own fault.
        (
            403,
            "pods \"x\" is forbidden: unable to create new content in namespace a because it is being terminated",
            Meaning::GiveBack,
        ),
        (
            403,
            "pods is forbidden: User \"u\" cannot create resource \"pods\" in API group \"\" in the namespace \"a\"",
            Meaning::GiveBack,
        ),
        (403, "pods \"x\" is forbidden: failed quota: crofter: must specify limits.cpu", Meaning::GiveBack),
        (404, "namespaces \"a\" not found", Meaning::GiveBack),
        (400, "<html>a proxy that does not like the request</html>", Meaning::GiveBack),
        (500, "etcdserver: leader changed", Meaning::GiveBack),
        (
            504,
            "Timeout: request did not complete within requested timeout - context deadline exceeded",
            Meaning::GiveBack,
        ),
    ];

    #[test]
    fn final_is_only_the_api_servers_own_word_on_the_pod() {
        for (code, words, expected) in TABLE {
            assert_eq!(meaning(&Answer::Refused { code, words }), expected, "{code} {words}");
        }
        assert_eq!(meaning(&Answer::Timeout), Meaning::GiveBack);
        assert_eq!(meaning(&Answer::Unreachable), Meaning::Keep);
    }

    #[test]
    fn a_refusal_of_one_pod_is_no_outage() {
        let outages =
            TABLE.iter().filter(|(code, words, _)| is_outage(&Answer::Refused { code: *code, words }));
        assert_eq!(outages.map(|(code, ..)| *code).collect::<Vec<_>>(), [500, 500, 504]);
        assert!(is_outage(&Answer::Timeout));
    }

    #[test]
    fn a_sentence_has_the_api_servers_words_and_an_end() {
        let words = "é".repeat(5000);
        let answer = Answer::Refused { code: 422, words: &words };
        let said = sentence(&answer, Meaning::Final);
        assert_eq!(said, format!("the API server refuses the pod: {}...", "é".repeat(1000)));
        let answer = Answer::Refused { code: 500, words: "etcdserver: leader changed" };
        let said = sentence(&answer, Meaning::GiveBack);
        assert_eq!(said, "the API server refuses the pod for the moment: etcdserver: leader changed");
    }
}
