//! Debian's kernel under GDB, from its first instruction on.
//!
//! The kernel has no frame pointers (CONFIG_UNWINDER_ORC) and its package no symbols: addresses come from the guest's
//! own /proc/kallsyms. A backtrace by frame pointers is shown on the embedded guest, which has them.

use std::fs;

use super::artifacts::guest;
use super::harness::{Gdb, Server, folder, gdb_is_here};

/// The command prints the address, then waits until a debugger lets it open another file than it asks for.
const COMMAND: &str = "\
grep -m 1 -F ' do_sys_openat2' /proc/kallsyms; echo ADDRESS; \
until read line < /jnit; do :; done 2> /dev/null; echo it read $line";

#[test]
fn a_kernel_boots_under_gdb_stops_at_a_function_and_goes_on() {
    let (Some(kernel), Some(initrd)) = (
        guest("linux-6.12/vmlinuz"),
        guest("initramfs-linux-6.12.cpio"),
    ) else {
        return;
    };
    if !gdb_is_here() {
        return;
    }
    let folder = folder("linux");
    let late = folder.join("late");
    let _ = fs::remove_file(&late);
    let args = [
        "--gdb-wait".as_ref(),
        "--memory".as_ref(),
        "1G".as_ref(),
        "--kernel".as_ref(),
        kernel.as_os_str(),
        "--initrd".as_ref(),
        initrd.as_os_str(),
        "--append".as_ref(),
        "console=ttyS0 nokaslr".as_ref(),
        "--exec".as_ref(),
        COMMAND.as_ref(),
    ];
    let server = Server::start(&folder, args);
    // The debugger is there while the kernel patches itself and tests its INT3 handler.
    let script = format!("continue\nsource {}\n", late.display());
    let gdb = Gdb::start(&folder, None, &server, &script);
    let console = server.wait_for_console("\nADDRESS");
    let line = console
        .lines()
        .find(|line| line.contains(" do_sys_openat2"));
    let line = line.unwrap_or_else(|| panic!("no address in\n{console}"));
    let address = line.split(' ').next().unwrap_or_default();
    let script = format!(
        "break *0x{address}\ncontinue\nbacktrace 2\nx/s $rsi\nprint $rip == 0x{address}\nstepi\nstepi\ndelete\n\
         hbreak *0x{address}\ncontinue\nprint $rip == 0x{address}\ndelete\n\
         set var *(char *)($rsi + 1) = 'i'\ncontinue\n",
    );
    fs::write(&late, script).expect("a writable folder");
    gdb.interrupt();
    let said = gdb.end();
    let ended = server.end();
    let whole = format!("gdb:\n{said}\nconsole:\n{}\n{}", ended.console, ended.words);
    for expected in [
        "SIGINT",
        "\nBreakpoint 1, 0x",
        "#0  ",
        "$1 = 1",
        "\nBreakpoint 2, 0x",
        "$2 = 1",
        "\"/jnit\"",
        "#1  0xffffffff8",
        "exited normally",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing\n{whole}");
    }
    for line in ["it read #!/bin/sh", "SWTDX-EXIT 0", "SWTDX-DONE"] {
        assert!(ended.console.contains(line), "{line:?} is missing\n{whole}");
    }
    for trouble in ["Oops", "BUG:", "WARNING:", "unexpected #DB"] {
        assert!(!ended.console.contains(trouble), "{trouble}\n{whole}");
    }
    assert!(ended.status.success(), "{whole}");
}
