//! Version, help, completions and manual pages, which all come from one definition.

mod program;

use program::swtdx;

const COMMANDS: [&str; 6] = ["run", "replay", "explain", "measure", "plan", "completions"];

#[test]
fn the_version_names_the_abi() {
    let text = swtdx(&["--version"], "");
    assert!(text.contains(concat!(
        "swtdx ",
        env!("CARGO_PKG_VERSION"),
        " (models the Intel TDX module ABI 1.5.01)"
    )));
}

#[test]
fn every_shell_gets_a_script_that_knows_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = swtdx(&["completions", shell], "");
        assert!(text.starts_with("exit status 0\n"), "{shell}: {text}");
        for command in COMMANDS {
            assert!(text.contains(command), "{shell} knows nothing of {command}");
        }
        // The generators of the other shells complete names only.
        let values = !matches!(shell, "bash" | "zsh" | "fish") || text.contains("page-by-page");
        assert!(values, "{shell} knows no option values");
    }
    assert!(swtdx(&["completions", "cmd"], "").starts_with("exit status 1\n"));
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let folder = std::env::temp_dir().join(format!("swtdx-man-{}", std::process::id()));
    let text = swtdx(&["man", "--out", folder.to_str().unwrap()], "");
    assert!(text.starts_with("exit status 0\n"), "{text}");
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    assert!(page("swtdx.1").contains("completions"));
    for command in COMMANDS {
        let page = page(&format!("swtdx-{command}.1"));
        assert!(
            page.contains(".SH NAME") && page.contains(command),
            "{command}: {page}"
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(swtdx(&["man"], "").contains(".TH swtdx 1"));
}

#[test]
fn a_wrong_command_is_wrong_usage() {
    let text = swtdx(&["explian"], "");
    assert!(
        text.starts_with("exit status 1\n") && text.contains("'explain'"),
        "{text}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    use std::process::{Command, Stdio};
    let program = env!("CARGO_BIN_EXE_swtdx");
    let mut child = Command::new(program)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
