//! What is compared: QEMU's TCG, and swtdx with an engine.

use std::path::Path;

use super::guest_job::{self, Job};

/// What every machine boots.
pub struct Guest<'a> {
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    /// The shell command that does the jobs.
    pub script: String,
    pub jobs: &'static [Job],
}

/// A program that boots the guest.
pub struct Machine {
    pub name: String,
    pub command: Vec<String>,
    /// It is swtdx: the console is on standard error, and a summary on standard output.
    pub is_ours: bool,
    pub jobs: &'static [Job],
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(String::from)
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

impl Machine {
    /// A plain VM: the comparison is with what a kernel costs in QEMU without a TD.
    pub fn qemu(program: &Path, guest: &Guest<'_>) -> Machine {
        let mut command = vec![path(program)];
        command.extend(words(
            "-machine q35 -accel tcg,thread=single -cpu max -smp 1 -m 1G -nodefaults -display none \
             -monitor none -serial stdio -no-reboot",
        ));
        command.extend(["-kernel".into(), path(guest.kernel)]);
        command.extend(["-initrd".into(), path(guest.initrd)]);
        let script = guest_job::encoded(&guest.script);
        command.extend(["-append".into(), format!("console=ttyS0 exec={script}")]);
        Machine {
            name: "QEMU TCG".into(),
            command,
            is_ours: false,
            jobs: guest.jobs,
        }
    }

    /// `cpus` vCPUs on threads and the host's clock.
    pub fn realtime(
        program: &Path,
        engine: Option<&String>,
        cpus: u32,
        guest: &Guest<'_>,
    ) -> Machine {
        let mut machine = Machine::swtdx(program, engine, guest);
        let at = machine.command.iter().position(|word| word == "--cpus");
        if let Some(at) = at {
            machine.command[at + 1] = cpus.to_string();
            machine.command.insert(at, "--realtime".into());
        }
        machine.name = format!("{cpus} vCPU{}", if cpus == 1 { "" } else { "s" });
        machine
    }

    /// `engine`: another than the default.
    pub fn swtdx(program: &Path, engine: Option<&String>, guest: &Guest<'_>) -> Machine {
        let mut command = vec![path(program)];
        command.extend(words(
            "run --json --quiet --cpus 1 --memory 1G --append console=ttyS0",
        ));
        if let Some(engine) = engine {
            command.extend(["--engine".into(), engine.clone()]);
        }
        command.extend(["--kernel".into(), path(guest.kernel)]);
        command.extend(["--initrd".into(), path(guest.initrd)]);
        command.extend(["--exec".into(), guest.script.clone()]);
        Machine {
            name: match engine {
                Some(engine) => format!("swtdx {engine}"),
                None => "swtdx".into(),
            },
            command,
            is_ours: true,
            jobs: guest.jobs,
        }
    }

    /// The command as a shell takes it.
    pub fn shown(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/.,-_=:".contains(c);
        let quoted = |word: &String| match word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        };
        self.command
            .iter()
            .map(quoted)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_command_that_is_shown() {
        let guest = Guest {
            kernel: Path::new("/k/vmlinuz"),
            initrd: Path::new("/k/initramfs"),
            script: "echo 'a b'".into(),
            jobs: guest_job::JOBS,
        };
        let ours = Machine::swtdx(Path::new("swtdx"), Some(&"translator".into()), &guest);
        let shown = ours.shown();
        assert!(shown.ends_with(r"--exec 'echo '\''a b'\'''"), "{shown}");
        assert!(shown.contains("--engine translator --kernel /k/vmlinuz"));
        let echo = format!("printf '%s\\n' {shown}");
        let said = std::process::Command::new("sh")
            .args(["-c", &echo])
            .output();
        let said = String::from_utf8(said.expect("a shell").stdout).expect("text");
        assert_eq!(said.lines().collect::<Vec<_>>(), ours.command);
        let four = Machine::realtime(Path::new("swtdx"), None, 4, &guest);
        assert!(
            four.shown().contains(" --realtime --cpus 4 "),
            "{}",
            four.shown()
        );
        let qemu = Machine::qemu(Path::new("qemu"), &guest);
        assert!(
            qemu.shown()
                .ends_with("'console=ttyS0 exec=echo%20%27a%20b%27'")
        );
    }
}
