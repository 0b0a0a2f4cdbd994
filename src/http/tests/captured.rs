//! Captures the log of a test.

use std::io::Write;

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::http::audit::TARGET;

/// What a test logs.
#[derive(Clone, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Captured {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Captured {
    pub(super) fn all(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of the log.
    pub(super) fn lines(&self) -> Vec<Value> {
        self.all().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The fields of each line of the audit log.
    pub(super) fn audit(&self) -> Vec<Value> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line["target"] == TARGET).map(|line| line["fields"].clone()).collect()
    }
}

/// Captures the log of this thread while the guard exists.
pub(super) fn capture() -> (Captured, tracing::subscriber::DefaultGuard) {
    let captured = Captured::default();
    let lines =
        tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE).with_writer(captured.clone());
    let guard = tracing::subscriber::set_default(lines.finish());
    (captured, guard)
}
