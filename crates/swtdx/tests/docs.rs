//! Every command that docs/commands shows prints what stands there.

mod program;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The commands of a page's console blocks, each with the output below it.
fn commands(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("$ swtdx") {
            _ if line.starts_with("```") => inside = line == "```console",
            Some(command) if inside => found.push((command.trim().to_owned(), String::new())),
            _ if inside => {
                let (_, output) = found.last_mut().expect("a block begins with a command");
                output.push_str(line);
                output.push('\n');
            }
            _ => {}
        }
    }
    found
}

fn run(root: &Path, command: &str) -> String {
    let (arguments, input) = match command
        .split_once(" < ")
        .or_else(|| command.strip_prefix("< ").map(|i| ("", i)))
    {
        Some((arguments, input)) => (
            arguments,
            Some(std::fs::File::open(root.join(input)).unwrap()),
        ),
        None => (command, None),
    };
    let output = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(arguments.split_whitespace())
        .current_dir(root)
        .stdin(input.map_or(Stdio::null(), Stdio::from))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Checks a page whose commands run in `folder`.
fn check(name: &str, folder: &Path, at_least: usize) {
    let root = root();
    let page = std::fs::read_to_string(root.join(format!("docs/commands/{name}.md"))).unwrap();
    let commands = commands(&page);
    assert!(commands.len() >= at_least, "{} commands", commands.len());
    for (command, expected) in commands {
        assert_eq!(run(folder, &command), expected, "swtdx {command}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn explain_prints_what_its_page_shows() {
    check("explain", &root(), 3);
}

#[test]
fn measure_prints_what_its_page_shows() {
    let Some(folder) = program::folder_of_ovmf() else {
        return;
    };
    check("measure", &folder, 2);
}

#[test]
fn plan_prints_what_its_page_shows() {
    check("plan", &root(), 1);
}

#[test]
fn the_version_is_what_the_page_shows() {
    check("shell", &root(), 1);
}

#[test]
fn trace_prints_what_its_page_shows() {
    check("trace", &root(), 2);
}
