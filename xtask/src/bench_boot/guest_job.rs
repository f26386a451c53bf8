//! What the guest does after its boot, as shell commands of the test initramfs.

/// Lines on the console around each job.
pub const BEGIN: &str = "SWTDX-JOB-BEGIN";
pub const END: &str = "SWTDX-JOB-END";

pub struct Job {
    pub name: &'static str,
    command: &'static str,
}

pub const JOBS: &[Job] = &[
    Job {
        name: "ALU loop",
        command: "/tmp/a",
    },
    Job {
        name: "sha256sum of 100 MB",
        command: "dd if=/dev/zero bs=1M count=100 2>/dev/null|sha256sum",
    },
    Job {
        name: "gzip of 16 MB",
        command: "for i in 1 2 3 4 5 6 7 8;do cat /bin/busybox;done|gzip -6|wc -c",
    },
    Job {
        name: "shell loop",
        command: "i=0;while [ $i -lt 300000 ];do i=$((i+1));done",
    },
];

/// Work that eight processes share, for `--parallel`.
pub const PARALLEL: &[Job] = &[
    Job {
        name: "8 sha256sum of 40 MB",
        command: "for i in 1 2 3 4 5 6 7 8;do (dd if=/dev/zero bs=1M count=40 2>/dev/null|sha256sum)& done;wait",
    },
    Job {
        name: "8 gzip of 8 MB",
        command: "for i in 1 2 3 4 5 6 7 8;do (for j in 1 2 3 4;do cat /bin/busybox;done|gzip -6|wc -c)& done;wait",
    },
];

/// Rounds of the ALU loop: seconds of it, so that starting a process does not count.
const ROUNDS: u32 = 2_000_000_000;

/// 5 instructions, `rounds` times, as a static ELF program of x86-64 Linux.
fn alu_program(rounds: u32) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let [a, b, c, d] = rounds.to_le_bytes();
    #[rustfmt::skip]
    let code = [
        0xB9, a, b, c, d,             // mov ecx, rounds
        0x48, 0x01, 0xC8,             // again: add rax, rcx
        0x48, 0x31, 0xC3,             // xor rbx, rax
        0x48, 0xC1, 0xC3, 0x05,       // rol rbx, 5
        0xFF, 0xC9,                   // dec ecx
        0x75, 0xF2,                   // jnz again
        0x31, 0xFF,                   // xor edi, edi
        0xB8, 0x3C, 0x00, 0x00, 0x00, // mov eax, 60 (exit)
        0x0F, 0x05,                   // syscall
    ];
    let size = HEADERS + code.len() as u64;
    let mut elf = vec![0x7F, b'E', b'L', b'F', 2, 1, 1];
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // an executable
    half(&mut elf, 62); // x86-64
    word(&mut elf, 1);
    long(&mut elf, BASE + HEADERS); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0);
    word(&mut elf, 0);
    for value in [64, 56, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    word(&mut elf, 1); // load
    word(&mut elf, 5); // read, execute
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value);
    }
    elf.extend(code);
    elf
}

/// One command line that does the parallel jobs.
pub fn parallel_script() -> String {
    timed(PARALLEL)
}

fn timed(jobs: &[Job]) -> String {
    let timed = |job: &Job| format!("echo {BEGIN};{};echo {END}", job.command);
    jobs.iter().map(timed).collect::<Vec<_>>().join(";")
}

/// One command line that does all jobs.
pub fn script() -> String {
    // Octal, as short as printf allows: zeros are most of it.
    let program: String = alu_program(ROUNDS)
        .iter()
        .map(|byte| format!("\\{byte:o}"))
        .collect();
    // A digit that follows a short escape would belong to it; the program has none, only escapes.
    format!("printf '{program}'>/tmp/a;chmod 755 /tmp/a;{}", timed(JOBS))
}

/// Percent-encoded for the kernel's command line, as `swtdx run --exec` does it.
pub fn encoded(script: &str) -> String {
    script
        .bytes()
        .map(
            |byte| match byte.is_ascii_alphanumeric() || b"/.-_;".contains(&byte) {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02x}"),
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_fit_a_kernel_command_line() {
        // COMMAND_LINE_SIZE of x86 is 2048.
        for script in [script(), parallel_script()] {
            let length = encoded(&script).len();
            assert!(length < 2000, "{length}");
        }
        assert!(encoded("a b;'%'").is_ascii());
        assert_eq!(encoded("a b\\1"), "a%20b%5c1");
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn the_alu_program_runs_and_exits_with_0() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("swtdx-alu-{}", std::process::id()));
        std::fs::write(&file, alu_program(1000)).expect("a file");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("it may be executed");
        let ran = std::process::Command::new(&file).status();
        std::fs::remove_file(&file).expect("the file");
        assert_eq!(ran.expect("it starts").code(), Some(0));
    }
}
