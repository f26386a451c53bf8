//! A folder of its own for each test, gone when the test ends.

use std::path::{Path, PathBuf};

pub struct Folder(PathBuf);

#[allow(dead_code, reason = "each test program uses some of this module")]
impl Folder {
    pub fn new(name: &str) -> Folder {
        let name = format!("swtdx-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        Folder(folder)
    }
    pub fn path(&self) -> &Path {
        &self.0
    }
    pub fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("a temporary file");
        path.to_str().expect("UTF-8").to_owned()
    }
    /// What a program said, with `word` for the folder's name.
    pub fn hide(&self, text: &str, word: &str) -> String {
        text.replace(self.0.to_str().expect("UTF-8"), word)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
