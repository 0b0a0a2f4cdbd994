//! A module that is built with a few words of its source put right: its mistakes would fail the tests.
//!
//! Go takes no overlay for what is in its module cache. So the module is copied, the copy is mended, and the build has
//! a `go.mod` that says to take the copy instead.

use std::{fs, io::ErrorKind, path::Path};

use super::{Error, GoModule, at, files_below};

/// Words of a module's source, and those that replace them.
#[derive(Clone, Copy, Debug)]
pub struct Mend {
    /// The module's path.
    pub module: &'static str,
    /// A file in it.
    pub file: &'static str,
    /// Words that are in it once.
    pub wrong: &'static str,
    /// The replacement.
    pub right: &'static str,
}

impl Mend {
    /// Puts a mended copy of the module below `dir`, where the `go.mod` is that the build uses.
    pub(super) fn apply(&self, of: &GoModule, dir: &Path) -> Result<(), Error> {
        let source = of.source_of(self.module)?;
        let copy = dir.join(self.module);
        for from in files_below(&source)? {
            let to = copy.join(from.strip_prefix(&source).unwrap_or(&from));
            fs::create_dir_all(to.parent().unwrap_or(&copy)).map_err(at(&to))?;
            // Not `fs::copy`: nothing in Go's module cache may be written to, and the copy would be as it is.
            fs::write(&to, fs::read(&from).map_err(at(&from))?).map_err(at(&to))?;
        }
        let file = copy.join(self.file);
        let text = fs::read_to_string(&file).map_err(at(&file))?;
        if text.matches(self.wrong).count() != 1 {
            let other = std::io::Error::new(
                ErrorKind::InvalidData,
                format!("{:?} is not there once: does this version of the module need mending?", self.wrong),
            );
            return Err(at(&file)(other));
        }
        fs::write(&file, text.replace(self.wrong, self.right)).map_err(at(&file))?;
        let replace = format!("-replace={}={}", self.module, copy.display());
        of.run(["mod", "edit", &replace, &dir.join("go.mod").display().to_string()]).map(drop)
    }
}
