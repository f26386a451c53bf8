//! Unmodified Debian kernels boot as TDs to user space.

#[path = "program/artifacts.rs"]
mod artifacts;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use artifacts::guest;
use serde_json::Value;
use sha2::Digest;

fn guests(kernel: &str) -> Option<Boot> {
    Some(Boot {
        kernel: guest(&format!("{kernel}/vmlinuz"))?,
        initrd: guest(&format!("initramfs-{kernel}.cpio"))?,
    })
}

struct Boot {
    kernel: PathBuf,
    initrd: PathBuf,
}

/// How a boot ended.
struct Ended {
    status: Option<i32>,
    console: String,
    summary: Value,
}

impl Boot {
    /// Starts it with the console on standard error and the summary on standard output, each into a pipe, and with
    /// `typed` in the pipe that is its console's input.
    fn start(&self, console: &str, args: &[&str], typed: &str) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args(["run", "--json", "--quiet", "--memory", "1G"])
            .args(["--append", &format!("console={console}")])
            .args(["--timeout", "500", "--kernel"])
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initrd)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let input = child.stdin.take().expect("piped");
        { input }
            .write_all(typed.as_bytes())
            .expect("room in the pipe");
        child
    }

    /// What `swtdx measure` predicts for it with this command line.
    fn measure(&self, append: &str) -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_swtdx"))
            .args(["measure", "--json", "--memory", "1G"])
            .args(["--append", append, "--kernel"])
            .arg(&self.kernel)
            .arg("--initrd")
            .arg(&self.initrd)
            .output()
            .expect("the program runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn end(child: Child) -> Ended {
    let output = child.wait_with_output().expect("the program ends");
    let console = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|why| panic!("no summary ({why}); standard error:\n{console}"));
    Ended {
        status: output.status.code(),
        console,
        summary,
    }
}

/// Everything that the guest must have said and the host must have seen.
fn is_a_linux_td(ended: &Ended, cpus: u32) {
    let console = &ended.console;
    assert_eq!(ended.status, Some(0), "{console}");
    for words in [
        "tdx: Guest detected",
        "Memory Encryption Features active: Intel TDX",
        "SWTDX-MARKER user space is up",
        &format!("with {cpus} processors"),
        "SWTDX-DONE",
    ] {
        assert!(
            console.contains(words),
            "{words:?} is missing in:\n{console}"
        );
    }
    let summary = &ended.summary;
    assert_eq!(summary["end"], "powered off");
    let report = &summary["report"];
    for check in [
        "mac_holds",
        "hashes_hold",
        "mrtd_expected",
        "rtmrs_expected",
    ] {
        assert_eq!(report[check], true, "{check}: {report}");
    }
    assert_eq!(report["mrtd"], summary["mrtd"]);
    assert_eq!(summary["teardown"]["lost_pages"], 0);
    assert_eq!(summary["teardown"]["lost_hkids"], 0);
}

/// Shows that the command's text arrives whole and that the console's input does; reads a disk, writes to it, and
/// writes numbers from the generator there.
const COMMAND: &str = r#"read line; echo "100% \"done\": $line" | cat
sha256sum /dev/vda; cat /sys/block/vda/serial; echo
dd if=/dev/hwrng of=/dev/vda bs=512 seek=1 count=1 2>/dev/null; echo written >/dev/vda; sync"#;

/// Shows that a console, a disk and the generator are there on several processors, and that a read-only disk is.
const LOOK: &str = "sha256sum /dev/vda; cat /sys/block/vda/ro /sys/class/misc/hw_random/rng_current; \
    ls -d /sys/bus/virtio/drivers/*/virtio*; echo x >/dev/vda || echo refused";

/// A disk with known content, for one boot, and its SHA-256.
fn disk(name: &str) -> (PathBuf, String) {
    let content: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let content = &content[..1536 * 512];
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, content).expect("a file for the disk");
    (path, hex(&sha2::Sha256::digest(content)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn debian_6_12_boots_the_same_with_either_engine_and_its_command_succeeds() {
    let Some(boot) = guests("linux-6.12") else {
        return;
    };
    let engines = ["translator", "interpreter"];
    let disks = engines.map(|engine| disk(&format!("{engine}.img")));
    let both = [0, 1].map(|n| {
        let disk = disks[n].0.to_str().expect("a path in UTF-8");
        let args = ["--exec", COMMAND, "--rng", "--disk", disk];
        let args = [&args[..], &["--engine", engines[n]]].concat();
        boot.start("ttyS0", &args, "two words\n")
    });
    // Both are listened to at once: neither waits for room in its pipe.
    let both = both.map(|child| std::thread::spawn(move || end(child)));
    let [first, second] = both.map(|boot| boot.join().expect("it ended"));
    is_a_linux_td(&first, 1);
    let said = first.console.contains("\n100% \"done\": two words\r\n");
    assert!(said, "what --exec ran:\n{}", first.console);
    assert!(first.console.contains("SWTDX-EXIT 0"));
    for words in [&format!("{}  /dev/vda", disks[0].1), "swtdx-0"] {
        let said = first.console.contains(words);
        assert!(said, "{words:?} is missing in:\n{}", first.console);
    }
    let [written, again] = disks.map(|(path, _)| std::fs::read(path).expect("the disk"));
    assert_eq!(&written[..8], b"written\n");
    assert_ne!(written[512..1024], [0; 512], "the generator's numbers");
    assert!(written == again, "the same in both runs");
    assert_eq!(first.console, second.console);
    let deterministic = |mut summary: Value| {
        summary["wall_ms"] = 0.into();
        summary["translator"] = Value::Null;
        summary
    };
    assert!(first.summary["instructions"].as_u64() > Some(100_000_000));
    assert_eq!(deterministic(first.summary), deterministic(second.summary));
}

#[test]
fn debian_7_boots_on_four_vcpus() {
    let Some(boot) = guests("linux-7") else {
        return;
    };
    let (path, hash) = disk("read-only.img");
    let disk = format!("{},ro", path.display());
    let args = ["--cpus", "4", "--console-device", "virtio", "--rng"];
    let args = [&args[..], &["--disk", &disk, "--exec", LOOK]].concat();
    let ended = end(boot.start("hvc0", &args, ""));
    is_a_linux_td(&ended, 4);
    for words in [
        &format!("{hash}  /dev/vda"),
        "\n1\r\nvirtio_rng",
        "drivers/virtio_console/virtio0",
        "drivers/virtio_rng/virtio1",
        "drivers/virtio_blk/virtio2",
        "refused",
    ] {
        let said = ended.console.contains(words);
        assert!(said, "{words:?} is missing in:\n{}", ended.console);
    }
}

#[test]
fn a_command_that_fails_in_the_guest_is_told_by_exit_status_2() {
    let Some(boot) = guests("linux-6.12") else {
        return;
    };
    let ended = end(boot.start("ttyS0", &["--exec", "exit 3"], ""));
    assert_eq!(ended.status, Some(2), "{}", ended.console);
    assert_eq!(ended.summary["end"], "command failed");
    assert_eq!(
        ended.summary["failure"],
        "the guest's command ended with status 3"
    );
    // The report's registers are those that are predicted without running anything.
    let predicted = boot.measure("console=ttyS0 exec=exit%203");
    assert_eq!(predicted["mrtd"], ended.summary["mrtd"]);
    assert_eq!(predicted["rtmr"], ended.summary["report"]["rtmrs"]);
}

/// What firmware does with a disk that it does not know: it starts shim, which starts GRUB, which starts Linux.
#[test]
fn ovmf_boots_debian_from_a_disk_through_shim_and_grub() {
    let files = ["ovmf-trixie/OVMF.fd", "disk-linux-6.12.img"].map(guest);
    let [Some(firmware), Some(disk)] = files else {
        return;
    };
    let child = Command::new(env!("CARGO_BIN_EXE_swtdx"))
        .args(["run", "--json", "--quiet", "--memory", "512M"])
        .args(["--timeout", "500", "--firmware"])
        .arg(firmware)
        .arg("--disk")
        .arg(format!("{},ro", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let ended = end(child);
    let console = &ended.console;
    assert_eq!(ended.status, Some(0), "{console}");
    for words in [
        "starting Boot0001 \"UEFI Misc Device\" from PciRoot(0x0)/Pci(0x1,0x0)",
        "GRUB loads the kernel",
        "tdx: Guest detected",
        "EDK II",
        "Memory Encryption Features active: Intel TDX",
        "SWTDX-MARKER user space is up",
    ] {
        let said = console.contains(words);
        assert!(said, "{words:?} is missing in:\n{console}");
    }
    let report = &ended.summary["report"];
    for check in ["hashes_hold", "mrtd_expected"] {
        assert_eq!(report[check], true, "{check}: {report}");
    }
}
