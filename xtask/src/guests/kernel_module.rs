//! Kernel modules of a Debian kernel package: found, decompressed, and ordered by what they depend on.

use std::fs;
use std::path::{Path, PathBuf};

/// One module, decompressed.
pub struct Module {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// `name` and everything it depends on, dependencies first; a name that the package has no file for is
/// built into the kernel.
pub fn with_dependencies(modules_dir: &Path, names: &[&str]) -> Result<Vec<Module>, String> {
    let mut files = Vec::new();
    list(modules_dir, &mut files)?;
    let mut ordered = Vec::new();
    for name in names {
        visit(&files, name, &mut ordered)?;
    }
    Ok(ordered)
}

fn visit(files: &[PathBuf], name: &str, ordered: &mut Vec<Module>) -> Result<(), String> {
    let wanted = name.replace('-', "_");
    if ordered.iter().any(|m| m.name == wanted) {
        return Ok(());
    }
    let Some(path) = files
        .iter()
        .find(|f| module_name(f).as_deref() == Some(&wanted))
    else {
        return Ok(());
    };
    let bytes = read(path)?;
    for dependency in depends(&bytes) {
        visit(files, &dependency, ordered)?;
    }
    ordered.push(Module {
        name: wanted,
        bytes,
    });
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name
        .strip_suffix(".ko.xz")
        .or_else(|| name.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if path.extension().is_none_or(|e| e != "xz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut plain)
        .map_err(|e| format!("{}: {e:?}", path.display()))?;
    Ok(plain)
}

/// The `depends=` string of the module's `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|w| w == KEY) else {
        return Vec::new();
    };
    let list = &module[at + KEY.len()..];
    let end = list.iter().position(|b| *b == 0).unwrap_or(list.len());
    let list = String::from_utf8_lossy(&list[..end]).into_owned();
    list.split(',')
        .filter(|d| !d.is_empty())
        .map(str::to_owned)
        .collect()
}

/// All files below a folder.
pub fn list(dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            list(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_modinfo_strings() {
        let module = b"\x7fELF junk\0license=GPL\0depends=tsm,configfs\0name=tdx_guest\0";
        assert_eq!(depends(module), ["tsm", "configfs"]);
        assert!(depends(b"\0depends=\0").is_empty());
        assert!(depends(b"no modinfo at all").is_empty());
    }
}
