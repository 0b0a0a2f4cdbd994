//! The two text formats of metrics: which one a client accepts, and how the second is made of the first.

use std::collections::BTreeSet;

/// A format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The format that an `Accept` header prefers; the Prometheus format where it prefers none (RFC 9110, 12.5.1).
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let mut best = [0.0_f32; 2];
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let at = match parts.next().map(str::to_ascii_lowercase).as_deref() {
                Some("application/openmetrics-text") => 0,
                Some("text/plain" | "text/*" | "*/*") => 1,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
            best[at] = best[at].max(quality.unwrap_or(0.0));
        }
        if best[0] > 0.0 && best[0] >= best[1] { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics text in the Prometheus format: there a counter is called as its samples are, and neither units nor an
/// end are named.
pub(super) fn as_prometheus(text: &str) -> String {
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let said = ["# HELP ", "# TYPE "].iter().find_map(|what| Some((*what, line.strip_prefix(what)?)));
        match said.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(name) => {
                lines.extend([what, name, "_total ", rest, "\n"]);
            }
            Some((_, (_, "unknown"))) => lines.extend([line.trim_end_matches("unknown"), "untyped\n"]),
            _ => lines.extend([line, "\n"]),
        }
    }
    lines
}
