//! apt on a root of its own: it downloads and checks signatures, and installs nothing.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// Suites and how much each is preferred; a package is always asked for by suite all the same.
const SUITES: &[(&str, u16)] = &[
    ("bookworm", 500),
    ("trixie", 200),
    ("trixie-backports", 100),
    ("sid", 50),
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

pub struct Apt {
    root: PathBuf,
    options: Vec<String>,
}

/// What `apt-cache show` says of a package.
pub struct Package {
    pub name: String,
    pub version: String,
    pub depends: Vec<String>,
}

pub struct Deb {
    pub path: PathBuf,
    pub sha256: String,
}

impl Apt {
    /// Makes the root and reads the package lists into it.
    pub fn in_root(root: &Path) -> Result<Apt, String> {
        if Command::new("apt-get").arg("--version").output().is_err() {
            return Err(
                "apt-get is not on this machine; guest artifacts are obtained with it".into(),
            );
        }
        if !Path::new(KEYRING).exists() {
            return Err(format!(
                "{KEYRING} is missing (package debian-archive-keyring)"
            ));
        }
        for folder in ["lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(root.join(folder))
                .map_err(|e| format!("{}: {e}", root.display()))?;
        }
        let root = fs::canonicalize(root).map_err(|e| format!("{}: {e}", root.display()))?;
        let mirror = mirror()?;
        let mut sources = String::new();
        let mut preferences = String::new();
        for (suite, priority) in SUITES {
            let _ = writeln!(
                sources,
                "deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main"
            );
            let _ = writeln!(
                preferences,
                "Package: *\nPin: release n={suite}\nPin-Priority: {priority}\n"
            );
        }
        for (file, text) in [
            ("sources.list", sources),
            ("preferences", preferences),
            ("status", String::new()),
        ] {
            fs::write(root.join(file), text).map_err(|e| format!("{}: {e}", root.display()))?;
        }
        let user = Command::new("id")
            .arg("-un")
            .output()
            .map_err(|e| format!("id: {e}"))?;
        let user = String::from_utf8_lossy(&user.stdout).trim().to_owned();
        let at = |file: &str| root.join(file).display().to_string();
        let options = [
            format!("Dir::Etc::SourceList={}", at("sources.list")),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::Etc::Preferences={}", at("preferences")),
            "Dir::Etc::PreferencesParts=/dev/null".into(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::State::Status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("APT::Sandbox::User={user}"),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::Retries=2".into(),
        ];
        let options = options
            .into_iter()
            .flat_map(|o| ["-o".to_owned(), o])
            .collect();
        let apt = Apt { root, options };
        eprintln!("guests: reading package lists");
        apt.get(&["update", "-q"])
            .map_err(|e| format!("the package lists cannot be had: {e}"))?;
        Ok(apt)
    }

    fn get(&self, arguments: &[&str]) -> Result<Output, String> {
        run(Command::new("apt-get")
            .args(&self.options)
            .args(arguments)
            .current_dir(self.root.join("debs")))
    }

    /// The newest version of a package in one suite.
    pub fn show(&self, name: &str, suite: &str) -> Result<Package, String> {
        let asked = format!("{name}/{suite}");
        let shown = run(Command::new("apt-cache")
            .args(&self.options)
            .args(["show", &asked]))
        .map_err(|e| format!("package {name} is not in {suite}: {e}"))?;
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        let field = |label: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(label)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        let version = field("Version").ok_or_else(|| format!("apt-cache knows no {asked}"))?;
        let depends = field("Depends").unwrap_or_default();
        let depends = depends
            .split([',', '|'])
            .filter_map(|d| d.split_whitespace().next())
            .map(str::to_owned)
            .collect();
        Ok(Package {
            name: name.to_owned(),
            version,
            depends,
        })
    }

    /// Downloads the package; apt has checked it against the signed lists.
    pub fn download(&self, name: &str, suite: &str) -> Result<Deb, String> {
        let debs = self.root.join("debs");
        let _ = fs::remove_dir_all(&debs);
        fs::create_dir_all(&debs).map_err(|e| format!("{}: {e}", debs.display()))?;
        self.get(&["download", "-q", &format!("{name}/{suite}")])
            .map_err(|e| format!("package {name} of {suite} cannot be downloaded: {e}"))?;
        let found = fs::read_dir(&debs).map_err(|e| format!("{}: {e}", debs.display()))?;
        let path = found
            .flatten()
            .map(|entry| entry.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| format!("apt-get download left no file for {name}"))?;
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Deb {
            path,
            sha256: sha256(&bytes),
        })
    }

    /// Downloads a package with everything that it needs to run; apt has checked all of it.
    pub fn download_whole(&self, name: &str, suite: &str) -> Result<Vec<Deb>, String> {
        let archives = self.root.join("cache/archives");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(archives.join("partial"))
            .map_err(|e| format!("{}: {e}", archives.display()))?;
        let options = ["-q", "-y", "-t", suite, "--no-install-recommends"];
        let only = ["-o", "Debug::NoLocking=1", "--download-only", "install"];
        self.get(&[&options[..], &only[..], &[name]].concat())
            .map_err(|e| format!("package {name} of {suite} cannot be downloaded: {e}"))?;
        let found = fs::read_dir(&archives).map_err(|e| format!("{}: {e}", archives.display()))?;
        let mut debs = Vec::new();
        for path in found.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|e| e == "deb") {
                let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                let sha256 = sha256(&bytes);
                debs.push(Deb { path, sha256 });
            }
        }
        debs.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(debs)
    }

    pub fn unpack(&self, deb: &Path, to: &Path) -> Result<(), String> {
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(to)).map(|_| ())
    }
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// The mirror that this machine's own apt uses for Debian's main archive.
fn mirror() -> Result<String, String> {
    let listed = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(LABEL)|$(CODENAME)|$(REPO_URI)",
    ]))?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines()
        .find_map(|line| {
            let mut parts = line.split('|');
            (parts.next() == Some("Debian"))
                .then(|| parts.nth(1))?
                .map(str::to_owned)
        })
        .or_else(|| {
            text.lines()
                .find_map(|l| l.rsplit('|').next())
                .map(str::to_owned)
        })
        .filter(|uri| !uri.is_empty())
        .ok_or_else(|| "this machine's apt names no Debian mirror".to_owned())
}

fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| format!("{name}: {e}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said
        .lines()
        .find(|l| l.starts_with("E:"))
        .or_else(|| said.lines().last());
    Err(format!(
        "{name}: {}",
        line.unwrap_or("failed and said nothing").trim()
    ))
}
