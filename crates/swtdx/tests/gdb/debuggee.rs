//! The guest that raises #BP and #DB for itself, on three processors, while a debugger has breakpoints of its own.

use super::harness::{Gdb, Server, folder, gdb_is_here, write_guest};

const STEPS: [&str; 6] = ["cpuid", "in", "int3", "pushf", "hlt", "sse"];

#[test]
fn the_guests_own_exceptions_reach_it_and_completed_instructions_are_one_step() {
    if !gdb_is_here() {
        return;
    }
    let folder = folder("debuggee");
    let guest = write_guest(&folder, &guest_images::DEBUGGEE);
    let image = guest.image.to_string_lossy().into_owned();
    let args = ["--gdb-wait", "--cpus", "3", "--firmware", &image];
    let server = Server::start(&folder, args);
    // Each processor comes by the checkpoint in every round. A breakpoint at the guest's own #DB handler is hit too.
    let mut script = String::from("break *checkpoint\n");
    script += &"continue\n".repeat(4);
    script += "delete\nbreak *own_debug\ncontinue\ncontinue\ndelete\n";
    script += "break *checkpoint\nignore 3 1000\n";
    for step in STEPS {
        script += &format!("break *step_{step}\n");
    }
    for step in STEPS {
        // Behind each step RFLAGS shows no trace of it.
        script += &format!(
            "continue\nstepi\nprintf \"stepped {step} %d %x\\n\", $rip == (unsigned long)&after_{step}, $eflags & 0x100\n"
        );
    }
    script += "print $xmm7.v2_double[0]\nset $xmm7.v2_double[0] = 4.5\nprint $xmm7.v2_double[0]\n";
    script += "info breakpoints\nmonitor exits 3\ndelete\ndetach\n";
    let said = Gdb::start(&folder, Some(&guest.elf), &server, &script).end();
    let ended = server.end();
    let whole = format!("gdb:\n{said}\nconsole:\n{}\n{}", ended.console, ended.words);
    assert_eq!(said.matches("hit Breakpoint 1,").count(), 4, "{whole}");
    assert_eq!(said.matches("hit Breakpoint 2,").count(), 2, "{whole}");
    assert!(said.contains("already hit"), "{whole}");
    assert!(said.contains("EXCEPTION_OR_NMI, vector 1"), "{whole}");
    for step in STEPS {
        assert!(
            said.contains(&format!("stepped {step} 1 0")),
            "{step}\n{whole}"
        );
    }
    assert!(
        said.contains("$1 = 3\n") && said.contains("$2 = 4.5\n"),
        "{whole}"
    );
    // Every exception that it raised arrived, once, and nothing of the debugger's did.
    for line in [
        "own #BP 30 of 30, own #DB 300 of 300, DR6 0x4003",
        "PUSHF stored 0x2, woken 1 times",
        "debuggee done",
    ] {
        assert!(ended.console.contains(line), "{line:?} is missing\n{whole}");
    }
    assert!(ended.status.success(), "{whole}");
}
