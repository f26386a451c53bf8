//! The embedded guest under GDB: a user's ordinary session.

use super::harness::{Gdb, Server, folder, gdb_is_here, write_guest};

const SCRIPT: &str = r#"
break *greeting
continue
set var *(unsigned long *)&GREETING = 4242
backtrace
set $before = $rip
stepi
print $rip != $before
print/x $cr4 & 0x20
print/x $mxcsr
print $xmm3.uint128
monitor td
monitor nothing
python
for command in ("set $lstar = 1", "x/4xb 0x123456789000", "set var *(char *)0x123456789000 = 1"):
    try:
        gdb.execute(command)
    except gdb.error as why:
        print(command, "is refused:", why)
end
delete
watch *(unsigned long *)&WOKEN
continue
info threads
thread 2
print $_thread
thread 1
delete
detach
"#;

#[test]
fn gdb_breaks_steps_watches_and_changes_what_the_guest_prints() {
    if !gdb_is_here() {
        return;
    }
    let folder = folder("embedded");
    let guest = write_guest(&folder, &guest_images::EMBEDDED);
    let server = Server::start(&folder, ["--gdb-wait", "--cpus", "2"]);
    let said = Gdb::start(&folder, Some(&guest.elf), &server, SCRIPT).end();
    let ended = server.end();
    let whole = format!("gdb:\n{said}\nconsole:\n{}\n{}", ended.console, ended.words);
    for expected in [
        "hit Breakpoint 1",
        "#1 ",
        "guest_main",
        "$1 = 1",
        "$2 = 0x20",
        // MXCSR and XMM registers are in their initial configuration.
        "$3 = 0x1f80",
        "$4 = 0",
        "set $lstar = 1 is refused",
        "Cannot access memory at address 0x123456789000",
        "hit Hardware watchpoint",
        "New value = 1",
        "(vCPU 1)",
        "$5 = 2",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing\n{whole}");
    }
    // The changed variable is what the guest prints, and it finishes once the debugger is gone.
    assert!(ended.console.contains("greeting 4242"), "{whole}");
    assert!(
        ended.console.contains("guest done, powering off"),
        "{whole}"
    );
    assert!(ended.status.success(), "{whole}");
    // What the protocol has no words for is told beside it.
    for told in [
        "writing lstar: LSTAR (0x1320000300002082) is read-only",
        "writing memory: the guest's page tables map nothing at 0x123456789000",
    ] {
        assert!(ended.words.contains(told), "{told:?} is missing\n{whole}");
    }
}

#[test]
fn a_running_guest_is_interrupted_and_ends_by_kill() {
    if !gdb_is_here() {
        return;
    }
    let folder = folder("interrupt");
    let guest = write_guest(&folder, &guest_images::DEBUGGEE);
    let image = guest.image.to_string_lossy().into_owned();
    let server = Server::start(&folder, ["--gdb-wait", "--firmware", &image]);
    // It would raise its exceptions for years.
    let script = "\
break *checkpoint
continue
delete
set var *(unsigned long *)&ROUNDS = 1000000000
printf \"off it goes\\n\"
continue
print *(unsigned long *)&BP_COUNT > 0
kill
";
    let gdb = Gdb::start(&folder, Some(&guest.elf), &server, script);
    gdb.wait_for("off it goes");
    std::thread::sleep(std::time::Duration::from_millis(500));
    gdb.interrupt();
    let said = gdb.end();
    let ended = server.end();
    let whole = format!("gdb:\n{said}\n{}", ended.words);
    assert!(
        said.contains("SIGINT") && said.contains("$1 = 1"),
        "{whole}"
    );
    assert!(ended.words.contains("0 lost; 0 key IDs lost"), "{whole}");
}
