//! Real GDB on a DEBUG TD: `swtdx run --debug-td --gdb`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A script for GDB; the address of the debugger is put in.
const SCRIPT: &str = "\
set pagination off
set confirm off
set language c
target remote @
break *greeting
continue
set var *(unsigned long *)&GREETING = 4242
set $before = $rip
stepi
print $rip != $before
print/x $cr4 & 0x20
monitor td
delete
watch *(unsigned long *)&WOKEN
continue
info threads
delete
detach
";

fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gdb");
    fs::create_dir_all(&folder).expect("a writable folder");
    folder
}

#[test]
fn gdb_breaks_steps_watches_and_changes_what_the_guest_prints() {
    if Command::new("gdb").arg("--version").output().is_err() {
        println!("SKIPPED gdb: it is not on this machine");
        return;
    }
    let folder = folder();
    let (socket, elf, script) = (
        folder.join("socket"),
        folder.join("embedded.elf"),
        folder.join("script"),
    );
    let _ = fs::remove_file(&socket);
    fs::write(&elf, guest_images::EMBEDDED.elf).expect("a writable folder");
    fs::write(&script, SCRIPT.replace('@', &socket.display().to_string())).expect("writable");
    let mut swtdx = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args([
            "run",
            "--debug-td",
            "--gdb-wait",
            "--cpus",
            "2",
            "--timeout",
            "120",
            "--gdb",
        ])
        .arg(format!("unix:{}", socket.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("swtdx starts");
    let mut stderr = BufReader::new(swtdx.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("target remote") {
        line.clear();
        let read = stderr.read_line(&mut line).expect("readable");
        assert_ne!(read, 0, "swtdx ended before it listened");
    }
    let gdb = Command::new("gdb")
        .args(["-nx", "-batch"])
        .arg(&elf)
        .arg("-x")
        .arg(&script)
        .output()
        .expect("gdb starts");
    let said = String::from_utf8_lossy(&gdb.stdout).into_owned();
    let rest = std::thread::spawn(move || stderr.lines().map_while(Result::ok).count());
    let output = swtdx.wait_with_output().expect("swtdx ends");
    let _ = rest.join();
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&gdb.stderr).into_owned();
    let whole = format!("gdb:\n{said}\n{complaint}\nconsole:\n{console}");

    assert!(said.contains("hit Breakpoint 1"), "{whole}");
    assert!(
        said.contains("$1 = 1"),
        "the step did not move RIP\n{whole}"
    );
    assert!(said.contains("$2 = 0x20"), "CR4.PAE is not seen\n{whole}");
    assert!(
        complaint.contains("OP_STATE"),
        "monitor td said nothing\n{whole}"
    );
    assert!(
        said.contains("hit Hardware watchpoint") && said.contains("New value = 1"),
        "{whole}"
    );
    assert!(said.contains("(vCPU 1)"), "{whole}");
    // The changed variable is what the guest prints, and it finishes once the debugger is gone.
    assert!(console.contains("greeting 4242"), "{whole}");
    assert!(console.contains("guest done, powering off"), "{whole}");
    assert!(output.status.success(), "{whole}");
}

#[test]
fn a_production_td_is_not_debugged() {
    let output = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--gdb", ":0"])
        .output()
        .expect("swtdx starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("a production TD cannot be debugged"),
        "{said}"
    );
}
